package reference

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"google.golang.org/protobuf/proto"
)

// backend stands for what real drivers talk to: a hypervisor, a storage, a kernel. It keeps objects in tables. With a journal file its state lies there, is
// read at the beginning and replaced whole at the end of each transaction, and so outlives the plugin, as a hypervisor does; several plugin processes may use
// one file at once. Without one the state is in memory.
type backend struct {
	mu   sync.Mutex
	path string // of the journal; empty = in memory
	mem  tables
}

// tables hold objects by table and key.
type tables map[string]map[string][]byte

// tx is a view of the backend within one transaction.
type tx struct {
	t     tables
	dirty bool
	deeds []deed // for the history
}

// do runs f as one transaction: what it changed is there afterwards if it returns nil, and nothing of it otherwise.
func (b *backend) do(f func(*tx) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.path == "" {
		x := &tx{t: b.mem.clone()}
		if err := f(x); err != nil {
			return err
		}
		b.mem = x.t
		return nil
	}
	lock, err := os.OpenFile(b.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // frees the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("locking the journal: %w", err)
	}
	x := &tx{t: tables{}}
	data, err := os.ReadFile(b.path)
	if err == nil {
		err = json.Unmarshal(data, &x.t)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the journal: %w", err)
	}
	if err := f(x); err != nil || !x.dirty {
		return err
	}
	if err := record(b.path, x); err != nil {
		return fmt.Errorf("writing the history: %w", err)
	}
	return replace(b.path, x.t)
}

// replace writes the tables in the file's place, whole or not at all.
func replace(path string, t tables) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone after the rename
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func (t tables) clone() tables {
	c := make(tables, len(t))
	for name, rows := range t {
		c[name] = maps.Clone(rows)
	}
	return c
}

// get reads an object into m and reports whether it is there.
func (x *tx) get(table, key string, m proto.Message) bool {
	data, ok := x.t[table][key]
	return ok && proto.Unmarshal(data, m) == nil
}

func (x *tx) has(table, key string) bool {
	_, ok := x.t[table][key]
	return ok
}

func (x *tx) put(table, key string, m proto.Message) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err == nil {
		x.putBytes(table, key, data)
	}
	return err
}

func (x *tx) bytes(table, key string) []byte { return x.t[table][key] }

func (x *tx) putBytes(table, key string, data []byte) {
	if x.t[table] == nil {
		x.t[table] = map[string][]byte{}
	}
	x.t[table][key] = data
	x.dirty = true
}

func (x *tx) del(table, key string) {
	if x.has(table, key) {
		delete(x.t[table], key)
		x.dirty = true
	}
}

// keys are the keys of a table, in order.
func (x *tx) keys(table string) []string { return slices.Sorted(maps.Keys(x.t[table])) }
