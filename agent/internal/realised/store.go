package realised

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

const (
	fileName   = "realised.db"
	markerName = "realised.made"
	// flushDelay bounds how long a record that was only Put is in memory alone.
	flushDelay = 20 * time.Millisecond
	// retryDelay is when what could not be written is tried again.
	retryDelay = time.Second
)

var (
	bucketRecords = []byte("records")
	bucketDesired = []byte("desired")
	bucketFormer  = []byte("former")
	bucketCheck   = []byte("check")
)

// Recovery says what Open found.
type Recovery struct {
	// Lost says that there had been a file and its content is gone: what exists must be found by marks.
	Lost bool
	// Reason says why, and where the damaged file is now.
	Reason string
}

// Store is the file, with all records in memory. All methods may be called at once.
type Store struct {
	db  *bbolt.DB
	log *slog.Logger

	mu      sync.Mutex
	records map[Key]Record
	dirty   map[Key]bool
	desired map[string][]byte
	former  map[string][]byte // what was wanted once, and is not known to be gone
	unsaved map[string]bool   // keys of desired and former that are not on disk as they are here
	timer   *time.Timer
	closed  bool
	wmu     sync.Mutex // one writer at a time
}

// Open opens the file in dir, or makes it. A file that cannot be read is moved aside, never used in part and never taken for an empty one.
func Open(dir string, log *slog.Logger) (*Store, Recovery, error) {
	path, marker := filepath.Join(dir, fileName), filepath.Join(dir, markerName)
	var rec Recovery
	_, markErr := os.Stat(marker)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if markErr == nil {
			rec = Recovery{Lost: true, Reason: path + " is missing"}
		}
	case err != nil:
		return nil, rec, fmt.Errorf("state file: %w", err)
	case info.Size() == 0:
		rec = Recovery{Lost: markErr == nil, Reason: path + " is empty"}
		if err := os.Remove(path); err != nil {
			return nil, rec, fmt.Errorf("state file: %w", err)
		}
	}
	s, err := load(path, log)
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, rec, fmt.Errorf("state file %s is in use: does another agent run with this data_dir?", path)
	}
	if err != nil {
		aside := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405.000"))
		if mvErr := os.Rename(path, aside); mvErr != nil {
			return nil, rec, fmt.Errorf("state file %s is damaged (%w) and cannot be moved aside: %w", path, err, mvErr)
		}
		rec = Recovery{Lost: true, Reason: fmt.Sprintf("%s is damaged (%v); it was moved to %s", path, err, aside)}
		if s, err = load(path, log); err != nil {
			return nil, rec, fmt.Errorf("state file: %w", err)
		}
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		_ = s.Close()
		return nil, rec, fmt.Errorf("state file: %w", err)
	}
	return s, rec, nil
}

// load opens and reads the whole file. bbolt maps the file and may fault on a damaged one: that becomes an error too.
func load(path string, log *slog.Logger) (s *Store, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var db *bbolt.DB
	defer func() {
		if p := recover(); p != nil {
			s, err = nil, fmt.Errorf("reading it failed: %v", p)
		}
		if err != nil && db != nil {
			closeQuietly(db)
		}
	}()
	if err = checkMetas(path); err != nil {
		return nil, err
	}
	if db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 3 * time.Second, FreelistType: bbolt.FreelistMapType}); err != nil {
		return nil, err
	}
	s = &Store{db: db, log: log, records: map[Key]Record{}, dirty: map[Key]bool{}, desired: map[string][]byte{}, former: map[string][]byte{}, unsaved: map[string]bool{}}
	if err = db.View(readable); err != nil {
		return nil, err
	}
	if err = db.View(checkAll); err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketRecords, bucketDesired, bucketFormer, bucketCheck} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		if err := verify(tx); err != nil {
			return err
		}
		return s.read(tx)
	})
	return s, err
}

// readable reads all of the file on this goroutine, where a fault is an error; bbolt's own check runs on another, where it would end the process.
func readable(tx *bbolt.Tx) error {
	return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return b.ForEach(func(_, _ []byte) error { return nil }) })
}

func checkAll(tx *bbolt.Tx) error {
	var errs []error
	for err := range tx.Check() {
		if len(errs) < 3 {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func closeQuietly(db *bbolt.DB) {
	defer func() { _ = recover() }() //nolint:errcheck // a damaged file may fault once more
	_ = db.Close()
}

func (s *Store) read(tx *bbolt.Tx) error {
	err := tx.Bucket(bucketRecords).ForEach(func(k, v []byte) error {
		var r Record
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("record %s: %w", k, err)
		}
		s.records[r.Key()] = r
		return nil
	})
	if err != nil {
		return err
	}
	for _, from := range []struct {
		bucket []byte
		into   map[string][]byte
	}{{bucketDesired, s.desired}, {bucketFormer, s.former}} {
		err = errors.Join(err, tx.Bucket(from.bucket).ForEach(func(k, v []byte) error {
			if err := proto.Unmarshal(v, &agentv1.DesiredObject{}); err != nil {
				return fmt.Errorf("%s %s: %w", from.bucket, k, err)
			}
			from.into[string(k)] = slices.Clone(v)
			return nil
		}))
	}
	return err
}

// Record returns what is known of an object.
func (s *Store) Record(k Key) (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[k]
	return r.clone(), ok
}

// Records returns all of a kind.
func (s *Store) Records(kind string) []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Record
	for k, r := range s.records {
		if k.Kind == kind {
			out = append(out, r)
		}
	}
	return out
}

// Put keeps a record; it is on disk a little later. For what drivers could tell again.
func (s *Store) Put(r Record) {
	r = r.clone() // the caller goes on with its own
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[r.Key()] = r
	s.dirty[r.Key()] = true
	s.flushIn(flushDelay)
}

// flushIn writes what is in memory alone, later. Needs mu.
func (s *Store) flushIn(delay time.Duration) {
	if s.timer != nil || s.closed {
		return
	}
	s.timer = time.AfterFunc(delay, func() {
		if err := s.Flush(); err != nil {
			s.log.Error("state file cannot be written; it is tried again", "error", err, "retry_in", retryDelay)
		}
	})
}

// PutNow keeps a record and returns when it is on disk. For what nobody else knows: that a reboot was issued.
func (s *Store) PutNow(r Record) error {
	s.Put(r)
	return s.Flush()
}

// Delete forgets an object.
func (s *Store) Delete(k Key) {
	s.mu.Lock()
	_, known := s.records[k]
	delete(s.records, k)
	if known {
		s.dirty[k] = true
	}
	s.mu.Unlock()
	if known {
		if err := s.Flush(); err != nil {
			s.log.Error("state file cannot be written", "error", err)
		}
	}
}

// Flush writes what is in memory alone. What could not be written, for want of space say, is tried again.
func (s *Store) Flush() error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if len(s.dirty)+len(s.unsaved) == 0 || s.closed {
		s.mu.Unlock()
		return nil
	}
	records := changes{bucket: bucketRecords, puts: map[string][]byte{}}
	for k := range s.dirty {
		r, ok := s.records[k]
		if !ok {
			records.dels = append(records.dels, k.String())
			continue
		}
		data, err := json.Marshal(r)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		records.puts[k.String()] = data
	}
	desired, former := changesOf(bucketDesired, s.desired, s.unsaved), changesOf(bucketFormer, s.former, s.unsaved)
	dirty, unsaved := s.dirty, s.unsaved
	s.dirty, s.unsaved = map[Key]bool{}, map[string]bool{}
	s.mu.Unlock()
	err := s.write(records, desired, former)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		maps.Copy(s.dirty, dirty)
		maps.Copy(s.unsaved, unsaved)
		s.flushIn(retryDelay)
	}
	return err
}

// changesOf makes a bucket hold what a map holds under keys.
func changesOf(bucket []byte, m map[string][]byte, keys map[string]bool) changes {
	c := changes{bucket: bucket, puts: map[string][]byte{}}
	for k := range keys {
		if v, ok := m[k]; ok {
			c.puts[k] = v
		} else {
			c.dels = append(c.dels, k)
		}
	}
	return c
}

// changes are writes to one bucket.
type changes struct {
	bucket []byte
	puts   map[string][]byte
	dels   []string
}

// write makes all changes, or none.
func (s *Store) write(all ...changes) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		sum := storedSum(tx)
		for _, c := range all {
			b := tx.Bucket(c.bucket)
			for k, v := range c.puts {
				sum.fold(c.bucket, []byte(k), b.Get([]byte(k)))
				sum.fold(c.bucket, []byte(k), v)
				if err := b.Put([]byte(k), v); err != nil {
					return err
				}
			}
			for _, k := range c.dels {
				sum.fold(c.bucket, []byte(k), b.Get([]byte(k)))
				if err := b.Delete([]byte(k)); err != nil {
					return err
				}
			}
		}
		return sum.store(tx)
	})
}

// SaveDesired keeps what is wanted now, without its secrets. What is wanted no longer stays known as former, unless it is known to be gone.
func (s *Store) SaveDesired(upserts []*agentv1.DesiredObject, removes []*agentv1.DesiredKey) error {
	puts := map[string][]byte{}
	for _, o := range upserts {
		data, err := proto.Marshal(withoutSecrets(o))
		if err != nil {
			return err
		}
		puts[desiredKey(o.GetKey())] = data
	}
	s.mu.Lock()
	for k, v := range puts {
		if _, was := s.former[k]; was || string(s.desired[k]) != string(v) {
			delete(s.former, k)
			s.desired[k], s.unsaved[k] = v, true
		}
	}
	for _, key := range removes {
		k := desiredKey(key)
		old, was := s.desired[k]
		if was && s.mayBeLeft(key) {
			s.former[k] = old
		}
		if was {
			delete(s.desired, k)
			s.unsaved[k] = true
		}
	}
	s.mu.Unlock()
	return s.Flush()
}

// mayBeLeft reports whether a VM or volume that is wanted no longer may still be on the host; mu is held.
func (s *Store) mayBeLeft(k *agentv1.DesiredKey) bool {
	kind := map[agentv1.DesiredKind]string{agentv1.DesiredKind_DESIRED_KIND_VM: KindVM, agentv1.DesiredKind_DESIRED_KIND_VOLUME: KindVolume}[k.GetKind()]
	r, known := s.records[Key{kind, k.GetId()}]
	return kind != "" && known && r.Gone.IsZero()
}

// Former is what an object that is wanted no longer was wanted as; nil when that is not known.
func (s *Store) Former(k *agentv1.DesiredKey) *agentv1.DesiredObject {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &agentv1.DesiredObject{}
	if data := s.former[desiredKey(k)]; data == nil || proto.Unmarshal(data, o) != nil {
		return nil
	}
	return o
}

// KeepFormer forgets what former objects were wanted as, but of those for which keep says so.
func (s *Store) KeepFormer(keep func(*agentv1.DesiredObject) bool) error {
	s.mu.Lock()
	all := maps.Clone(s.former)
	s.mu.Unlock()
	for k, data := range all { // keep may ask this store
		if o := (&agentv1.DesiredObject{}); proto.Unmarshal(data, o) == nil && keep(o) {
			delete(all, k)
		}
	}
	if len(all) == 0 {
		return nil
	}
	s.mu.Lock()
	for k := range all {
		delete(s.former, k)
		s.unsaved[k] = true
	}
	s.mu.Unlock()
	return s.Flush()
}

// Desired returns what was wanted when it was last saved, in order of kind and id.
func (s *Store) Desired() []*agentv1.DesiredObject {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]string, 0, len(s.desired))
	for k := range s.desired {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]*agentv1.DesiredObject, 0, len(keys))
	for _, k := range keys {
		o := &agentv1.DesiredObject{}
		if err := proto.Unmarshal(s.desired[k], o); err == nil { // checked when it was read or written
			out = append(out, o)
		}
	}
	return out
}

// Close writes what is left and closes the file.
func (s *Store) Close() error {
	err := s.Flush()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return errors.Join(err, s.db.Close())
}

func desiredKey(k *agentv1.DesiredKey) string {
	return strings.ToLower(strings.TrimPrefix(k.GetKind().String(), "DESIRED_KIND_")) + "/" + k.GetId()
}

// withoutSecrets is a copy that may lie on disk.
func withoutSecrets(o *agentv1.DesiredObject) *agentv1.DesiredObject {
	o = proto.CloneOf(o)
	if vm := o.GetVm(); vm != nil {
		vm.UserData = nil
		if ci := vm.GetSpec().GetCloudInit(); ci != nil {
			ci.UserData = nil
		}
	}
	if p := o.GetPool(); p != nil {
		p.Secrets = nil
		if spec := p.GetPool().GetSpec(); spec != nil {
			spec.Secrets = nil
		}
	}
	return o
}
