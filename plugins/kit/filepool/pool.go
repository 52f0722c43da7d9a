// Package filepool keeps volumes and image copies as files below one directory: the local and the NFS driver are thin around it.
//
//	<pool>/.limiquantix-pool     marker: which pool this is; a directory with another marker, or foreign content and no marker, is refused
//	<pool>/volumes/<id>.<format> and <id>.json, its record; <id>.<other>.qcow2 are further layers, see layer
//	<pool>/snapshots/<id>.json   its record; its bytes are a layer that is written no more
//	<pool>/images/<id>.<format>  and <id>.json
//	<pool>/tmp/                  what is being made; emptied when the pool is opened
//
// An object exists when its record does: content is written and synced under tmp, renamed into place, and the record is written last. On removal
// the record goes last. So a crash at any point leaves something that the same call, issued again, finishes; nothing half-made is ever listed.
// All access goes through os.Root: no name leads out of the pool.
package filepool

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	markerFile = ".limiquantix-pool"
	volumesDir = "volumes"
	snapsDir   = "snapshots"
	imagesDir  = "images"
	tmpDir     = "tmp"
)

// Owner is whose objects a pool lists: the cluster and node of Configure.
type Owner struct {
	ClusterID, NodeID string
	// Shared says that other nodes use the directory too: what lies in it is the cluster's, and what others are making is left alone.
	Shared bool
}

// Options of a pool.
type Options struct {
	// Preallocation of blank volumes: "off" (also if empty), "metadata" or "full".
	Preallocation string
}

// Pool is an open pool. Methods may be called at once on different objects; the caller keeps two calls off one object.
type Pool struct {
	id    string
	path  string
	root  *os.Root
	owner Owner

	preallocation string
}

type marker struct {
	SchemaVersion int    `json:"schema_version"`
	PoolID        string `json:"pool_id"`
	ClusterID     string `json:"cluster_id"`
}

// CheckPath says whether a path may be a pool's: absolute, clean, below one of the allowed roots, with no symbolic link on the way.
func CheckPath(path string, allowed []string) error {
	bad := func(format string, args ...any) error {
		return fault.Invalid(fault.Violation{Field: "parameters.path", Description: fmt.Sprintf(format, args...)})
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return bad("%q must be an absolute path without '.', '..' or trailing '/'", path)
	}
	if !slices.ContainsFunc(allowed, func(r string) bool { return strings.HasPrefix(path, strings.TrimSuffix(r, "/")+"/") }) {
		return bad("%q lies below none of the allowed roots %v: choose another path, or add a root to the plugin's configuration", path, allowed)
	}
	for p := path; p != "/"; p = filepath.Dir(p) {
		st, err := os.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "pool path: %w", err)
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			return bad("%q is a symbolic link", p)
		}
		if !st.IsDir() {
			return bad("%q is not a directory", p)
		}
		if _, err := os.Lstat(filepath.Join(p, markerFile)); p != path && err == nil {
			return bad("%q lies inside the pool at %q", path, p)
		}
	}
	return nil
}

// Open makes the pool's directories where they are missing, checks the marker, and clears what an earlier process left half-made. path was checked by CheckPath.
func Open(id, path string, owner Owner, o Options) (*Pool, error) {
	if !slices.Contains([]string{"", "off", "metadata", "full"}, o.Preallocation) {
		return nil, fault.Invalid(fault.Violation{Field: "parameters.preallocation", Description: fmt.Sprintf("%q is none of off, metadata, full", o.Preallocation)})
	}
	if err := CheckID("pool_id", id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o711); err != nil {
		return nil, ioError("make pool directory", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, ioError("open pool", err)
	}
	p := &Pool{id: id, path: path, root: root, owner: owner, preallocation: o.Preallocation}
	if err := p.claim(); err != nil {
		_ = root.Close()
		return nil, err
	}
	for _, d := range []string{volumesDir, snapsDir, imagesDir, tmpDir} {
		if err := root.Mkdir(d, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
			_ = root.Close()
			return nil, ioError("make pool directory", err)
		}
	}
	if err := p.sweep(); err != nil {
		_ = root.Close()
		return nil, err
	}
	return p, nil
}

// Close lets go of the pool; its files stay.
func (p *Pool) Close() error { return p.root.Close() }

// Path is the pool's directory.
func (p *Pool) Path() string { return p.path }

// claim reads the marker or writes it into an empty directory.
func (p *Pool) claim() error {
	b, err := p.root.ReadFile(markerFile)
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(p.path)
		if err != nil {
			return ioError("read pool", err)
		}
		entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return halfMarker(e.Name()) })
		if len(entries) > 0 && !(len(entries) == 1 && entries[0].Name() == "lost+found") {
			return fault.New(metav1.Reason_REASON_INVALID_FIELD, "directory %s holds files that are not a pool's", p.path).WithRemedy("choose an empty or new directory")
		}
		m, _ := json.Marshal(marker{SchemaVersion: 1, PoolID: p.id, ClusterID: p.owner.ClusterID})
		return p.writeFile(markerFile, m, 0o644)
	}
	if err != nil {
		return ioError("read pool marker", err)
	}
	var m marker
	if err := json.Unmarshal(b, &m); err != nil || m.SchemaVersion != 1 {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "marker of pool directory %s cannot be read", p.path).WithRemedy("restore %s, or choose another directory", markerFile)
	}
	if m.PoolID != p.id || m.ClusterID != p.owner.ClusterID {
		return fault.New(metav1.Reason_REASON_NOT_OURS, "directory %s belongs to pool %s of cluster %s", p.path, m.PoolID, m.ClusterID).WithRemedy("choose another directory")
	}
	return nil
}

// halfMarker says whether a file is a marker whose writing ended before it was in place.
func halfMarker(name string) bool {
	rest, ok := strings.CutPrefix(name, newMarker)
	_, err := hex.DecodeString(rest)
	return ok && err == nil && len(rest) == 2*randomBytes
}

// abandoned is when what another node was making in a shared pool is certainly not being made any more.
const abandoned = 24 * time.Hour

// sweep removes what has no record: leftovers of a crash.
func (p *Pool) sweep() error {
	old := func(name string) bool {
		st, err := p.root.Lstat(name)
		return err == nil && time.Since(st.ModTime()) > abandoned
	}
	if err := p.bringBack(""); err != nil {
		return err
	}
	err := p.removeIn(tmpDir, func(name string) bool {
		return !p.owner.Shared || strings.HasPrefix(name, p.owner.NodeID+"-") || old(tmpDir+"/"+name)
	})
	if err != nil {
		return err
	}
	if err := p.removeIn(".", func(name string) bool { return halfMarker(name) && (!p.owner.Shared || old(name)) }); err != nil {
		return err
	}
	used, err := p.used("")
	if err != nil {
		return err
	}
	err = p.removeIn(volumesDir, func(name string) bool {
		id, rest, _ := strings.Cut(name, ".")
		if CheckID("id", id) != nil || rest != "raw" && rest != "qcow2" && !strings.HasSuffix(rest, ".qcow2") {
			return false // not made by us
		}
		return !used[name] && (!p.owner.Shared || old(volumesDir+"/"+name))
	})
	if err != nil {
		return err
	}
	return p.removeIn(imagesDir, func(name string) bool {
		id, ext, _ := strings.Cut(name, ".")
		if CheckID("id", id) != nil || ext != "raw" && ext != "qcow2" {
			return false
		}
		_, err := p.root.Lstat(imagesDir + "/" + id + ".json")
		return errors.Is(err, fs.ErrNotExist) && (!p.owner.Shared || old(imagesDir+"/"+name))
	})
}

func (p *Pool) removeIn(dir string, want func(name string) bool) error {
	f, err := p.root.Open(dir)
	if err != nil {
		return ioError("read pool", err)
	}
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return ioError("read pool", err)
	}
	for _, n := range names {
		if want(n) {
			if err := p.root.Remove(dir + "/" + n); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return ioError("clear leftovers", err)
			}
		}
	}
	return nil
}

// State reads health and capacity.
func (p *Pool) State() *driverv1.Pool { return Look(p.id, p.path) }

// Look reads health and capacity of a pool that need not be open. It touches the file system, and hangs if that does.
func Look(id, path string) *driverv1.Pool {
	out := &driverv1.Pool{PoolId: id, Health: driverv1.HealthState_HEALTH_STATE_HEALTHY}
	broken := func(err error) *driverv1.Pool {
		out.Health, out.Reason, out.Message = driverv1.HealthState_HEALTH_STATE_UNHEALTHY, fault.ReasonName(fault.From(err).Reason), err.Error()
		return out
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return broken(ioError("pool directory "+path, err))
	}
	out.CapacityBytes = int64(st.Blocks) * st.Bsize
	out.UsedBytes = int64(st.Blocks-st.Bavail) * st.Bsize
	var m marker
	b, err := os.ReadFile(filepath.Join(path, markerFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return broken(fault.New(metav1.Reason_REASON_WRONG_STATE, "the pool's marker is gone: was the directory unmounted or replaced?"))
	case err != nil:
		return broken(ioError("pool marker", err))
	case json.Unmarshal(b, &m) != nil || m.PoolID != id:
		return broken(fault.New(metav1.Reason_REASON_NOT_OURS, "the marker in %s is of another pool now", path))
	}
	if out.CapacityBytes > 0 && float64(out.UsedBytes) > 0.95*float64(out.CapacityBytes) {
		out.Health, out.Reason, out.Message = driverv1.HealthState_HEALTH_STATE_DEGRADED, "NO_SPACE", "less than 5 % of the pool is free"
	}
	return out
}

// CheckID refuses what is not a UUID in lower case, so that an id is always a safe file name. "local", the first pool's id, is one too.
func CheckID(field, id string) error {
	ok := len(id) == 36 || id == "local"
	for i := 0; ok && i < len(id) && len(id) == 36; i++ {
		switch c := id[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			ok = c == '-'
		default:
			ok = c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		}
	}
	if !ok {
		return fault.Invalid(fault.Violation{Field: field, Description: fmt.Sprintf("%q is not a UUID in lower case", id)})
	}
	return nil
}

// ioError classifies an operating system's error.
func ioError(what string, err error) error {
	reason := metav1.Reason_REASON_BACKEND_FAILED
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		reason = metav1.Reason_REASON_NO_SPACE
	case errors.Is(err, syscall.ESTALE):
		reason = metav1.Reason_REASON_STALE_FILE
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EROFS):
		reason = metav1.Reason_REASON_ACCESS_DENIED
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		reason = metav1.Reason_REASON_DEVICE_MISSING
	}
	return fault.New(reason, "%s: %w", what, err)
}
