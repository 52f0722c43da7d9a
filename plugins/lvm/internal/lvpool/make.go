package lvpool

import (
	"context"
	"errors"
	"os"
	"strconv"

	"github.com/limiquantix/limiquantix/plugins/lvm/internal/lvm"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// blank makes an object of a size; name, mark and tags are on it from the beginning. It is not activated, and nothing is written to it.
func (p *Pool) blank(ctx context.Context, name string, size int64, m *driverv1.OwnershipMark, tags lvm.Tags) error {
	args := []string{"lvcreate", "-y", "-n", name, "-an", "-ky"}
	if p.thin() {
		args = append(args, "-V", bytesArg(size), "--thinpool", p.p.ThinPool)
	} else {
		args = append(args, "-L", bytesArg(size), "-Wn", "-Zn")
	}
	_, err := p.tool.Run(ctx, append(append(args, p.addTags(m, tags)...), p.p.VG)...)
	return err
}

func bytesArg(n int64) string { return strconv.FormatInt(n, 10) + "b" }

// copyOf makes an object with the content of another: the first length bytes of it, then zeros up to size. final is the state that it has
// in the end; "" = none, it is whole. How it is made is the pool's way: thin snapshots share what they have in common, in a linear pool all is copied.
func (p *Pool) copyOf(ctx context.Context, src object, length int64, name string, size int64, m *driverv1.OwnershipMark, tags lvm.Tags, final string, permission string) error {
	tags["state"] = making
	if p.thin() && size == src.SizeBytes { // one command makes it, whole
		tags["state"] = final
	}
	if !p.thin() {
		if err := p.blank(ctx, name, size, m, tags); err != nil {
			return err
		}
		if err := p.fill(ctx, src, length, name, size); err != nil {
			return p.undo(ctx, name, err)
		}
	} else {
		args := append([]string{"lvcreate", "-y", "-s", "-n", name, "-an", "-ky", "-p", permission}, p.addTags(m, tags)...)
		if _, err := p.tool.Run(ctx, append(args, p.path(src.Name))...); err != nil {
			return err
		}
		if tags["state"] != making {
			return nil
		}
		if _, err := p.tool.Run(ctx, "lvextend", "-y", "-L", bytesArg(size), p.path(name)); err != nil {
			return p.undo(ctx, name, err)
		}
		permission = "rw" // as it was made
	}
	args := []string{"--deltag", lvm.Tag("state", making)}
	if final != "" {
		args = append(args, "--addtag", lvm.Tag("state", final))
	}
	if permission == "r" {
		args = append(args, "-pr")
	}
	if err := p.retag(ctx, name, args...); err != nil {
		return p.undo(ctx, name, err)
	}
	return nil
}

// fill copies content from one linear object into a new one.
func (p *Pool) fill(ctx context.Context, src object, length int64, name string, size int64) (err error) {
	from, err := p.open(ctx, src, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.done(ctx)) }()
	to, err := p.open(ctx, object{LV: lvm.LV{Name: name}}, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.done(ctx)) }()
	return copyContent(ctx, to, from, length, size)
}

// undo removes what a failed call has made, and returns why the call failed. What it cannot remove is not listed, and removed by the call's
// repetition or the next EnsurePool.
func (p *Pool) undo(ctx context.Context, name string, cause error) error {
	ctx, cancel := tidy(ctx)
	defer cancel()
	lv, ok, err := p.tool.LV(ctx, p.p.VG, name)
	if err == nil && ok {
		if o, isOurs := p.object(lv); isOurs && p.ours(o) && o.tags["state"] == making {
			err = p.destroy(ctx, o)
		}
	}
	if err != nil {
		return fault.From(cause).WithMetadata("left_behind", name)
	}
	return cause
}

// destroy removes an object so that its bytes are not read in a later one. In a thin pool new blocks are zeroed; elsewhere they are wiped before.
func (p *Pool) destroy(ctx context.Context, o object) error {
	if o.ThinPool == "" {
		if s := o.tags["state"]; s != making && s != gone {
			if err := p.retag(ctx, o.Name, "--addtag", lvm.Tag("state", gone)); err != nil {
				return err
			}
		}
		if err := p.wipe(ctx, o); err != nil {
			return err
		}
	}
	_, err := p.tool.Run(ctx, "lvremove", "-y", p.path(o.Name))
	if err != nil && !fault.Is(err, metav1.Reason_REASON_NOT_FOUND) {
		return err
	}
	return p.unnote(o.Name)
}

func (p *Pool) wipe(ctx context.Context, o object) (err error) {
	if o.ReadOnly {
		if err := p.retag(ctx, o.Name, "-prw"); err != nil {
			return err
		}
	}
	d, err := p.open(ctx, o, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.done(ctx)) }()
	if err := d.zero(ctx, 0, o.SizeBytes); err != nil {
		return err
	}
	return d.flush()
}

// sweep ends what an earlier process left half-done. Nothing else works on the pool meanwhile.
func (p *Pool) sweep(ctx context.Context) error {
	all, err := p.all(ctx)
	if err != nil {
		return err
	}
	notes, err := os.ReadDir(p.busy)
	if err != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "read the plugin's runtime directory: %w", err)
	}
	for _, n := range notes {
		if _, there := all[n.Name()]; !there {
			if err := p.unnote(n.Name()); err != nil {
				return err
			}
			continue
		}
		p.mu.Lock()
		err := p.release(ctx, n.Name())
		p.mu.Unlock()
		if err != nil {
			return err
		}
		o := all[n.Name()]
		o.Active = false
		all[n.Name()] = o
	}
	volumes := map[string]bool{} // with a restore that did not end
	for _, o := range all {
		if !p.ours(o) {
			continue
		}
		s := o.tags["state"]
		switch {
		case o.kind == restored || o.kind == replaced || s == restoring:
			volumes[o.id] = true
			continue
		case o.kind == classic:
			err = p.dropClassic(ctx, o)
		case o.kind == incoming || s == making || s == gone:
			err = p.destroy(ctx, o)
		}
		if err != nil && !fault.Is(err, metav1.Reason_REASON_DEVICE_MISSING) { // what is on other devices works on
			return err
		}
		err = nil
	}
	for id := range volumes {
		if err := p.settleRestore(ctx, id, all); err != nil && !fault.Is(err, metav1.Reason_REASON_DEVICE_MISSING) {
			return err
		}
	}
	return nil
}
