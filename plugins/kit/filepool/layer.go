package filepool

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/kit/qcow2"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// layer is a file below volumes. The first of a volume is written by whoever attaches it, and is in no other record; the others are never written again, and may be in
// several records: of snapshots, and of volumes made from them. A layer that no record names is removed.
type layer struct {
	File   string                `json:"file"`
	Format driverv1.VolumeFormat `json:"format"`
}

// layers are those of a volume; records of version 0.1 name none.
func (r volumeRecord) layers(id string) []layer {
	if len(r.Layers) == 0 {
		return []layer{{File: id + extension(r.Format), Format: r.Format}}
	}
	return r.Layers
}

func (p *Pool) layerPath(l layer) string { return p.abs(volumesDir + "/" + l.File) }

// walk reads every volume's and every snapshot's record, whoever made it.
func (p *Pool) walk(volume func(id string, r volumeRecord), snapshot func(id string, r snapshotRecord)) error {
	ids, err := p.ids(volumesDir, "")
	if err != nil {
		return err
	}
	for _, id := range ids {
		var rec volumeRecord
		if err := p.readRecord(volumesDir, id, &rec); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return ioError("read volume", err)
		}
		volume(id, rec)
	}
	if ids, err = p.ids(snapsDir, ""); err != nil {
		return err
	}
	for _, id := range ids {
		var rec snapshotRecord
		if err := p.readRecord(snapsDir, id, &rec); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return ioError("read snapshot", err)
		}
		snapshot(id, rec)
	}
	return nil
}

// used are the names of all layers that a record names, other than that of a volume that is being deleted, if any.
func (p *Pool) used(deleted string) (map[string]bool, error) {
	used := map[string]bool{}
	add := func(layers []layer) {
		for _, l := range layers {
			used[l.File] = true
		}
	}
	err := p.walk(
		func(id string, r volumeRecord) {
			if id == deleted {
				return
			}
			add(r.layers(id))
			if r.Pending != "" { // a guest may write to it already
				add([]layer{overlayOf(id, r.Pending)})
			}
		},
		func(_ string, r snapshotRecord) {
			if !r.Gone {
				add(r.Layers)
				add(r.Overlay)
			}
		},
	)
	return used, err
}

// collect removes those of the layers that no record names.
func (p *Pool) collect(layers []layer) error { return p.collectBut("", layers) }

// collectStrays removes the layers whose names begin and end so and which no record names: a call that was not issued again left them.
func (p *Pool) collectStrays(prefix, suffix string) error {
	layers, err := p.named(prefix, suffix)
	if err != nil {
		return err
	}
	return p.collect(layers)
}

// named are the files of layers whose names begin and end so.
func (p *Pool) named(prefix, suffix string) (layers []layer, err error) {
	f, err := p.root.Open(volumesDir)
	if err != nil {
		return nil, ioError("list layers", err)
	}
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return nil, ioError("list layers", err)
	}
	for _, n := range names {
		if strings.HasPrefix(n, prefix) && strings.HasSuffix(n, suffix) && (strings.HasSuffix(n, ".raw") || strings.HasSuffix(n, ".qcow2")) {
			layers = append(layers, layer{File: n})
		}
	}
	return layers, nil
}

// collectBut is collect when what the record of a volume names does not count.
func (p *Pool) collectBut(deleted string, layers []layer) error {
	if len(layers) == 0 {
		return nil
	}
	used, err := p.used(deleted)
	if err != nil {
		return err
	}
	var gone []string
	for _, l := range layers {
		if !used[l.File] {
			gone = append(gone, l.File)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return p.removeFiles(volumesDir, gone...)
}

// userOfImage names a volume or snapshot that rests on an image copy; empty = none.
func (p *Pool) userOfImage(image string) (user string, err error) {
	err = p.walk(func(id string, r volumeRecord) {
		// Records of version 0.1 say only what the volume was made from.
		if r.Image == image || len(r.Layers) == 0 && r.ImageID == image && r.Format == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
			user = "volume " + id
		}
	}, func(id string, r snapshotRecord) {
		if r.Image == image && !r.Gone {
			user = "snapshot " + id
		}
	})
	return user, err
}

// grown is the size that a layer has by its own word, bytes; 0 = it cannot be read. The hypervisor grows files that it has open.
func (p *Pool) grown(l layer) int64 {
	f, err := p.root.Open(volumesDir + "/" + l.File)
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	if l.Format == driverv1.VolumeFormat_VOLUME_FORMAT_RAW {
		st, err := f.Stat()
		if err != nil {
			return 0
		}
		return st.Size()
	}
	h, err := qcow2.Read(f)
	if err != nil {
		return 0
	}
	return int64(h.VirtualSize) //nolint:gosec // at most 64 TiB in images of ours
}

// snapshotsOf are the ids of a volume's snapshots, pending ones included.
func (p *Pool) snapshotsOf(volume string) (ids []string, err error) {
	err = p.walk(func(string, volumeRecord) {}, func(id string, r snapshotRecord) {
		if r.VolumeID == volume && !r.Gone {
			ids = append(ids, id)
		}
	})
	slices.Sort(ids)
	return ids, err
}

// maxLayers bounds a chain: each layer costs a guest's read a look.
const maxLayers = 64
