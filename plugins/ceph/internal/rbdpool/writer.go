package rbdpool

import (
	"sync"

	"github.com/ceph/go-ceph/rbd"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	blockBytes = 1 << 20  // written at once
	writers    = 4        // blocks on their way: these and the one being filled are what an import keeps
	zeroBytes  = 64 << 10 // pieces in which zeros are told from data
	firstBytes = 1 << 30  // of an RBD image whose size is not known beforehand
)

var zeros [zeroBytes]byte

// allZero reports whether b holds nothing; b is at most zeroBytes long.
func allZero(b []byte) bool { return string(b) == string(zeros[:len(b)]) }

// writer fills a new RBD image in order. Zeros are not written: what was never written reads as zeros.
type writer struct {
	img   *rbd.Image
	limit int64 // bytes that may come
	size  int64 // of the RBD image now
	at    int64 // bytes taken
	block []byte

	free chan []byte
	busy sync.WaitGroup
	mu   sync.Mutex
	err  error // first failure
}

func newWriter(img *rbd.Image, size, limit int64) *writer {
	w := &writer{img: img, size: size, limit: limit, free: make(chan []byte, writers+1)}
	for range writers + 1 {
		w.free <- nil // made when it is needed
	}
	w.block = w.take()
	return w
}

func (w *writer) take() []byte {
	b := <-w.free
	if b == nil {
		b = make([]byte, 0, blockBytes)
	}
	return b[:0]
}

// Write takes the next bytes.
func (w *writer) Write(b []byte) (int, error) {
	taken := len(b)
	if int64(taken) > w.limit-w.at {
		return 0, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "more than %d bytes came", w.limit)
	}
	for len(b) > 0 {
		room := blockBytes - int(w.at%blockBytes)
		n := min(room, len(b))
		w.block = append(w.block, b[:n]...)
		w.at += int64(n)
		b = b[n:]
		if n == room {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return taken, nil
}

// Skip is skip, for whom copies holes.
func (w *writer) Skip(n int64) error { return w.skip(n) }

// skip takes n zero bytes.
func (w *writer) skip(n int64) error {
	if n < 0 || n > w.limit-w.at {
		return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "more than %d bytes came", w.limit)
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.at += n
	return nil
}

// flush sends what is there on its way.
func (w *writer) flush() error {
	w.mu.Lock()
	err := w.err
	w.mu.Unlock()
	if err != nil || len(w.block) == 0 {
		return err
	}
	start := w.at - int64(len(w.block))
	if w.at > w.size {
		for w.size < w.at {
			w.size = max(firstBytes, 2*w.size)
		}
		w.busy.Wait() // a change of size beside writes makes them wait for each other anyway
		if err := w.img.Resize(uint64(w.size)); err != nil {
			return backend(err, "grow the RBD image")
		}
	}
	block := w.block
	w.block = nil
	w.busy.Go(func() {
		if err := w.send(block, start); err != nil {
			w.mu.Lock()
			if w.err == nil {
				w.err = err
			}
			w.mu.Unlock()
		}
		w.free <- block
	})
	w.block = w.take()
	return nil
}

// send writes the parts of a block that hold data.
func (w *writer) send(block []byte, start int64) error {
	for from := 0; from < len(block); {
		end := from
		for end < len(block) && !allZero(block[end:min(end+zeroBytes, len(block))]) {
			end = min(end+zeroBytes, len(block))
		}
		if end > from {
			if _, err := w.img.WriteAt(block[from:end], start+int64(from)); err != nil {
				return backend(err, "write to the RBD image")
			}
		}
		from = min(end+zeroBytes, len(block)) // the piece of zeros that ended it
	}
	return nil
}

// finish waits until all is written, and gives the RBD image its size.
func (w *writer) finish(size int64) error {
	err := w.flush()
	w.busy.Wait()
	if err == nil {
		err = w.err
	}
	if err == nil && w.size != size {
		err = backend(w.img.Resize(uint64(size)), "set the size of the RBD image")
	}
	if err == nil {
		err = backend(w.img.Flush(), "write to the RBD image")
	}
	return err
}

// abandon waits for what is on its way.
func (w *writer) abandon() { w.busy.Wait() }
