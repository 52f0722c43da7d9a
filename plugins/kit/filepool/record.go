package filepool

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// mark is a driver.v1 OwnershipMark as it stands in a record.
type mark struct {
	ClusterID  string `json:"cluster_id"`
	NodeID     string `json:"node_id"`
	ObjectID   string `json:"object_id"`
	Generation int64  `json:"generation"`
	Epoch      int64  `json:"epoch"`
}

func markOf(m *driverv1.OwnershipMark) mark {
	return mark{m.GetClusterId(), m.GetNodeId(), m.GetObjectId(), m.GetGeneration(), m.GetEpoch()}
}

func (m mark) proto() *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: m.ClusterID, NodeId: m.NodeID, ObjectId: m.ObjectID, Generation: m.Generation, Epoch: m.Epoch}
}

func (p *Pool) ours(m mark) bool {
	return m.ClusterID == p.owner.ClusterID && (m.NodeID == p.owner.NodeID || p.owner.Shared && m.NodeID == "")
}

// tmp is a name for what is being made.
func (p *Pool) tmp(id string, f driverv1.VolumeFormat) string {
	return tmpDir + "/" + p.owner.NodeID + "-" + id + "-" + randomName() + extension(f)
}

// removeFiles removes files of a directory in order, durably; what is absent is fine.
func (p *Pool) removeFiles(dir string, names ...string) error {
	for _, n := range names {
		if err := p.root.Remove(dir + "/" + n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ioError("remove "+n, err)
		}
	}
	if err := p.syncDir(dir); err != nil {
		return ioError("remove", err)
	}
	return nil
}

// writeFile puts content in place whole and durably, or not at all.
func (p *Pool) writeFile(name string, content []byte, perm fs.FileMode) error {
	tmp := tmpDir + "/" + p.owner.NodeID + "-" + randomName()
	if name == markerFile { // there is no folder yet
		tmp = newMarker + randomName()
	}
	f, err := p.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return ioError("write "+name, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = p.rename(tmp, name)
	}
	if err != nil {
		_ = p.root.Remove(tmp)
		return ioError("write "+name, err)
	}
	return nil
}

// rename moves a file into place and makes the move durable.
func (p *Pool) rename(from, to string) error {
	if err := p.root.Rename(from, to); err != nil {
		return err
	}
	dir := "."
	if i := strings.LastIndexByte(to, '/'); i >= 0 {
		dir = to[:i]
	}
	return p.syncDir(dir)
}

func (p *Pool) syncDir(dir string) error {
	d, err := p.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readRecord reads <dir>/<id>.json into v; fs.ErrNotExist when there is none.
func (p *Pool) readRecord(dir, id string, v any) error {
	b, err := p.root.ReadFile(dir + "/" + id + ".json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("record %s/%s.json is damaged: %w", dir, id, err)
	}
	return nil
}

func (p *Pool) writeRecord(dir, id string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	return p.writeFile(dir+"/"+id+".json", b, 0o600)
}

// remove takes content and then the record away, durably; what is absent is fine.
func (p *Pool) remove(dir, id string) error {
	return p.removeFiles(dir, id+".raw", id+".qcow2", id+".json")
}

// ids lists the ids with a record in a directory, sorted, after the given one.
func (p *Pool) ids(dir, after string) ([]string, error) {
	f, err := p.root.Open(dir)
	if err != nil {
		return nil, ioError("list "+dir, err)
	}
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return nil, ioError("list "+dir, err)
	}
	var out []string
	for _, n := range names {
		if id, ok := strings.CutSuffix(n, ".json"); ok && CheckID("id", id) == nil && id > after {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out, nil
}

const (
	newMarker   = ".new-"
	randomBytes = 8
)

func randomName() string {
	var b [randomBytes]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
