package rbdpool

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rados"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Keys of the index begin with what they are.
const (
	keyPool     = "m"    // poolRecord
	keyVolume   = "v/"   // + volume id: volumeRecord
	keySnapshot = "s/"   // + snapshot id: snapshotRecord
	keyImage    = "i/"   // + image id: imageRecord
	keyIntent   = "t/"   // + node id + "/" + RBD image: it is being made there
	keyRemove   = "d/"   // + RBD image: to be removed
	keyHidden   = "h/"   // + RBD image + "/" + RBD snapshot: hiddenRecord, to be removed when nothing rests on it
	keyClient   = "c/"   // + node id: address of the client that works for that node
	pageLimit   = 1000   // entries per request; the OSD's own limit is 1024
	casAttempts = 200    // of one change, when others change the index at the same time
	keyEnd      = "\x7f" // after every key
)

// index is the omap of one object.
type index struct {
	conn *conn
	oid  string
}

type entries map[string][]byte

// create makes the object if it is not there.
func (x index) create() error {
	op := rados.CreateWriteOp()
	defer op.Release()
	op.Create(rados.CreateIdempotent)
	return backend(op.Operate(x.conn.io, x.oid, rados.OperationNoFlag), "make the pool's index")
}

// read returns those of the keys that are there, and the object's version.
func (x index) read(keys ...string) (entries, uint64, error) {
	io, err := x.conn.context() // of its own: the version is the last one that a context saw
	if err != nil {
		return nil, 0, err
	}
	defer io.Destroy()
	op := rados.CreateReadOp()
	defer op.Release()
	step := op.GetOmapValuesByKeys(keys)
	if err := op.Operate(io, x.oid, rados.OperationNoFlag); err != nil {
		return nil, 0, x.gone(err)
	}
	found := entries{}
	for {
		kv, err := step.Next()
		if err != nil {
			return nil, 0, backend(err, "read the pool's index")
		}
		if kv == nil {
			break
		}
		found[kv.Key] = kv.Value
	}
	version, err := io.GetLastVersion()
	return found, version, backend(err, "read the pool's index")
}

// gone explains a failure to read, also that of an index which somebody removed.
func (x index) gone(err error) error {
	if is(err, syscall.ENOENT) {
		return fault.New(metav1.Reason_REASON_POOL_UNHEALTHY, "the pool's index, object %s of Ceph pool %s, is gone", x.oid, x.conn.params.Pool).
			WithRemedy("restore it; or ensure the pool again, which begins with an empty one")
	}
	return backend(err, "read the pool's index")
}

// put writes entries whatever is there; a nil value removes a key.
func (x index) put(change entries) error {
	return backend(x.write(change, 0), "write the pool's index")
}

// write makes one atomic change; with a version, only if the object still has it.
func (x index) write(change entries, version uint64) error {
	op := rados.CreateWriteOp()
	defer op.Release()
	op.AssertExists()
	if version > 0 {
		op.AssertVersion(version)
	}
	set, rm := map[string][]byte{}, []string{}
	for k, v := range change {
		if v == nil {
			rm = append(rm, k)
		} else {
			set[k] = v
		}
	}
	if len(set) > 0 {
		op.SetOmap(set)
	}
	if len(rm) > 0 {
		op.RmOmapKeys(rm)
	}
	return op.Operate(x.conn.io, x.oid, rados.OperationNoFlag)
}

// update reads keys and writes what decide makes of them, as one step that nobody comes between. decide may be called several times; an empty change writes nothing.
func (x index) update(ctx context.Context, keys []string, decide func(entries) (entries, error)) error {
	for range casAttempts {
		found, version, err := x.read(keys...)
		if err != nil {
			return err
		}
		change, err := decide(found)
		if err != nil || len(change) == 0 {
			return err
		}
		err = x.write(change, version)
		if err == nil {
			return nil
		}
		if !is(err, syscall.ERANGE, syscall.EOVERFLOW) { // what a wrong version answers
			return backend(err, "write the pool's index")
		}
		select {
		case <-time.After(time.Duration(rand.IntN(5000)) * time.Microsecond):
		case <-ctx.Done():
			return ended(ctx)
		}
	}
	return fault.New(metav1.Reason_REASON_BUSY, "the pool's index is changed by too many at once").WithRemedy("retry soon")
}

type entry struct {
	key   string
	value []byte
}

// page returns up to n entries under a prefix in order, those after the key prefix+after, and whether there are more.
func (x index) page(prefix, after string, n int) (found []entry, more bool, err error) {
	n = min(n, pageLimit)
	m, err := x.conn.io.GetOmapValues(x.oid, prefix+after, prefix, int64(n+1))
	if err != nil {
		return nil, false, x.gone(err)
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		found = append(found, entry{strings.TrimPrefix(k, prefix), m[k]})
	}
	if len(found) > n {
		return found[:n], true, nil
	}
	return found, false, nil
}

// all returns all entries under a prefix.
func (x index) all(prefix string) (found []entry, err error) {
	for after, more := "", true; more; {
		var part []entry
		if part, more, err = x.page(prefix, after, pageLimit); err != nil {
			return nil, err
		}
		found = append(found, part...)
		if more {
			after = part[len(part)-1].key
		}
	}
	slices.SortFunc(found, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	return found, nil
}

// ended is the error of a call whose caller does not wait any more.
func ended(ctx context.Context) error {
	return fault.From(context.Cause(ctx))
}

func encode(v any) []byte {
	b, _ := json.Marshal(v) // records hold strings, numbers and maps of them
	return b
}

// decode reads a record; an absent one is no error.
func decode[R any](b []byte) (*R, error) {
	if b == nil {
		return nil, nil //nolint:nilnil // absent
	}
	var r R
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "a record of the pool's index cannot be read: %w", err).WithRemedy("restore it, or use a newer version")
	}
	return &r, nil
}
