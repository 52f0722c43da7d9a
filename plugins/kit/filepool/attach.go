package filepool

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// In a pool of one node an attachment is a field of the volume's record. In a shared pool several nodes attach at once, and no lock is held between them; so each
// attachment is a file beside the record, made by link(2), of which exactly one succeeds:
//
//	volumes/<id>.attached          the one node that has the volume for itself
//	volumes/<id>.shared.<node>     one of the nodes that share it
//
// Whoever attaches makes its own file first and then looks for files of the other kind; if there is one it takes its own away again. So of two nodes at once at
// most one has the volume for itself, and none beside those that share it.
const (
	aloneSuffix = ".attached"
	sharedInfix = ".shared."
)

// attachment is the content of such a file.
type attachment struct {
	Node string `json:"node"`
}

// holders are the nodes that have a volume of a shared pool attached.
type holders struct {
	alone  string
	shared []string
}

func (h holders) any() bool { return h.alone != "" || len(h.shared) > 0 }

func (h holders) has(node string) bool { return h.alone == node || slices.Contains(h.shared, node) }

// first names one of them, for a message.
func (h holders) first(not string) string {
	for _, n := range append([]string{h.alone}, h.shared...) {
		if n != "" && n != not {
			return n
		}
	}
	return not
}

// allHolders reads those of all volumes, or of one, in one walk.
func (p *Pool) allHolders(only string) (map[string]holders, error) {
	f, err := p.root.Open(volumesDir)
	if err != nil {
		return nil, ioError("read attachments", err)
	}
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return nil, ioError("read attachments", err)
	}
	all := map[string]holders{}
	for _, n := range names {
		if only != "" && !strings.HasPrefix(n, only) {
			continue
		}
		if id, ok := strings.CutSuffix(n, aloneSuffix); ok {
			h := all[id]
			if h.alone, err = p.aloneHolder(n); err != nil {
				return nil, err
			}
			all[id] = h
		} else if id, node, ok := strings.Cut(n, sharedInfix); ok {
			h := all[id]
			h.shared = append(h.shared, node)
			all[id] = h
		}
	}
	return all, nil
}

func (p *Pool) aloneHolder(name string) (string, error) {
	b, err := p.root.ReadFile(volumesDir + "/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // it was detached meanwhile
	}
	var a attachment
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err != nil {
		return "", ioError("read attachment "+name, err)
	}
	return a.Node, nil
}

// settleHolders fills in who has the volume attached. Records of shared pools do not say it.
func (p *Pool) settleHolders(id string, rec *volumeRecord) error {
	if !p.owner.Shared {
		return nil
	}
	all, err := p.allHolders(id)
	if err != nil {
		return err
	}
	p.held(rec, all[id])
	return nil
}

// heldOf fills in who has a listed volume attached.
func (p *Pool) heldOf(rec *volumeRecord, all map[string]holders, id string) {
	if p.owner.Shared {
		p.held(rec, all[id])
	}
}

func (p *Pool) held(rec *volumeRecord, h holders) {
	rec.here = h.has(p.owner.NodeID)
	rec.Attached, rec.AttachedNode = h.any(), ""
	switch {
	case rec.here && len(h.shared) < 2:
		rec.AttachedNode = p.owner.NodeID
	case h.any():
		rec.AttachedNode = h.first(p.owner.NodeID)
	}
}

// takeShared attaches a volume of a shared pool, and ends what an attachment that is void has left pending.
func (p *Pool) takeShared(req *driverv1.AttachVolumeRequest, rec *volumeRecord) error {
	had := rec.here
	if err := p.take(req); err != nil {
		return err
	}
	if had || req.GetShared() {
		return nil
	}
	now, err := p.ourVolume(req.GetVolumeId()) // as whoever had it before has left it
	if err == nil {
		*rec = now
		err = p.settle(req.GetVolumeId(), rec)
	}
	if err != nil {
		return errors.Join(err, p.give(req.GetVolumeId()))
	}
	return nil
}

// take makes this node's attachment of a volume in a shared pool.
func (p *Pool) take(req *driverv1.AttachVolumeRequest) error {
	id := req.GetVolumeId()
	if void := req.GetFencedNodeId(); void != "" && void != p.owner.NodeID {
		if err := p.voidHolder(id, void); err != nil {
			return err
		}
	}
	all, err := p.allHolders(id)
	if err != nil {
		return err
	}
	shared := req.GetShared()
	if h := all[id]; h.has(p.owner.NodeID) { // already attached here, in whatever way
		shared = h.alone != p.owner.NodeID
	}
	name := volumesDir + "/" + id + aloneSuffix
	if shared {
		name = volumesDir + "/" + id + sharedInfix + p.owner.NodeID
	}
	made, err := p.linkAttachment(name)
	if err != nil {
		return err
	}
	if all, err = p.allHolders(id); err != nil {
		return err
	}
	h := all[id]
	other := h.alone != "" && h.alone != p.owner.NodeID
	if !shared {
		other = other || slices.ContainsFunc(h.shared, func(n string) bool { return n != p.owner.NodeID })
	}
	if !other {
		return nil
	}
	// What was there before the call stays, since a guest may use it: the other one will go.
	if made {
		if err := p.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ioError("give up attachment", err)
		}
	}
	return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached by node %s", id, h.first(p.owner.NodeID)).WithMetadata("node", h.first(p.owner.NodeID))
}

// linkAttachment puts this node's file at name; made is false if there is one already, of whomever.
func (p *Pool) linkAttachment(name string) (made bool, err error) {
	b, err := json.Marshal(attachment{Node: p.owner.NodeID})
	if err != nil {
		return false, ioError("attach", err)
	}
	tmp := tmpDir + "/" + p.owner.NodeID + "-" + randomName()
	f, err := p.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, ioError("attach", err)
	}
	defer func() { _ = p.root.Remove(tmp) }()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return false, ioError("attach", err)
	}
	err = p.root.Link(tmp, name)
	if errors.Is(err, fs.ErrExist) {
		// A lost reply of a server makes a link that was made look like one that was there: the file itself tells.
		mine, serr := p.root.Stat(tmp)
		there, terr := p.root.Stat(name)
		return serr == nil && terr == nil && os.SameFile(mine, there), nil
	}
	if err == nil {
		err = p.syncDir(volumesDir)
	}
	if err != nil {
		return false, ioError("attach", err)
	}
	return true, nil
}

// voidHolder ends what a fenced node had attached. The file is moved aside first, of which one caller succeeds, and looked at then: it may be another's by now.
func (p *Pool) voidHolder(id, node string) error {
	if strings.ContainsAny(node, "/\x00") {
		return fault.Invalid(fault.Violation{Field: "fenced_node_id", Description: "is no node's id"})
	}
	if err := p.removeFiles(volumesDir, id+sharedInfix+node); err != nil {
		return err
	}
	if err := p.bringBack(id); err != nil { // of a call that was cut short
		return err
	}
	name := volumesDir + "/" + id + aloneSuffix
	if holder, err := p.aloneHolder(id + aloneSuffix); err != nil || holder != node {
		return err
	}
	aside := tmpDir + "/" + p.owner.NodeID + asideInfix + id + "." + node + "." + randomName()
	if err := p.root.Rename(name, aside); errors.Is(err, fs.ErrNotExist) {
		return nil // another was faster
	} else if err != nil {
		return ioError("end the attachment of a fenced node", err)
	}
	return p.endAside(aside, name, node)
}

// asideInfix stands in the names of attachments that were moved aside.
const asideInfix = "-aside-"

// endAside removes an attachment that was moved aside, or puts it back if it is not that of the fenced node.
func (p *Pool) endAside(aside, name, node string) error {
	var a attachment
	b, err := p.root.ReadFile(aside)
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err == nil && a.Node != node { // attached anew between the look and the move
		if err = p.root.Link(aside, name); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err == nil {
		err = p.root.Remove(aside)
	}
	if err == nil {
		err = p.syncDir(volumesDir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ioError("end the attachment of a fenced node", err)
	}
	return nil
}

// bringBack ends what this node was doing with attachments of a volume, or of all, that it had moved aside.
func (p *Pool) bringBack(only string) error {
	f, err := p.root.Open(tmpDir)
	if err != nil {
		return ioError("read pool", err)
	}
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return ioError("read pool", err)
	}
	for _, n := range names {
		rest, ok := strings.CutPrefix(n, p.owner.NodeID+asideInfix)
		parts := strings.SplitN(rest, ".", 2) // the volume; the node, which may have dots, and a random name
		if !ok || len(parts) != 2 || CheckID("id", parts[0]) != nil || only != "" && parts[0] != only {
			continue
		}
		node := parts[1][:max(0, strings.LastIndexByte(parts[1], '.'))]
		if err := p.endAside(tmpDir+"/"+n, volumesDir+"/"+parts[0]+aloneSuffix, node); err != nil {
			return err
		}
	}
	return nil
}

// give ends this node's attachment of a volume in a shared pool.
func (p *Pool) give(id string) error {
	if holder, err := p.aloneHolder(id + aloneSuffix); err != nil {
		return err
	} else if holder == p.owner.NodeID {
		return p.removeFiles(volumesDir, id+aloneSuffix)
	}
	return p.removeFiles(volumesDir, id+sharedInfix+p.owner.NodeID)
}
