package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Disk is the device of the n-th disk: of Options.Disks, then those of AddDisk.
func (g *Guest) Disk(n int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.disks[n]
}

// DiskFile is the file of the host that is the n-th disk, raw: what the guest has flushed is in it.
func (g *Guest) DiskFile(n int) string { return filepath.Join(g.dir, diskID(n)) }

func diskID(n int) string { return fmt.Sprintf("lab%d", n) }

// AddDisk plugs a blank disk in and returns its device once it is there. The disk is sparse, and discards give room back.
func (g *Guest) AddDisk(ctx context.Context, size int64) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	id, file := diskID(len(g.disks)), g.DiskFile(len(g.disks))
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	err = f.Truncate(size)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", err
	}
	if err := g.qmp.call(ctx, "blockdev-add", map[string]any{
		"driver": "file", "filename": file, "node-name": id, "discard": "unmap", "cache": map[string]any{"direct": false, "no-flush": true},
	}, nil); err != nil {
		return "", err
	}
	if err := g.qmp.call(ctx, "device_add", map[string]any{"driver": "virtio-blk-pci", "id": id, "drive": id, "serial": id}, nil); err != nil {
		return "", err
	}
	dev, err := g.waitDisk(ctx, id, true)
	if err != nil {
		return "", fmt.Errorf("plugging in disk %s: %w", id, err)
	}
	g.disks = append(g.disks, dev)
	return dev, nil
}

// RemoveDisk pulls the n-th disk out while the guest runs and returns when it is gone there.
func (g *Guest) RemoveDisk(ctx context.Context, n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	id := diskID(n)
	if err := g.qmp.call(ctx, "device_del", map[string]any{"id": id}, nil); err != nil {
		return err
	}
	if _, err := g.waitDisk(ctx, id, false); err != nil {
		return fmt.Errorf("pulling out disk %s: %w", id, err)
	}
	g.disks[n] = ""
	return nil
}

// waitDisk waits until a disk with a serial number is there, or is gone.
func (g *Guest) waitDisk(ctx context.Context, serial string, want bool) (string, error) {
	for {
		out, err := g.Run(ctx, "/bin/sh", "-c", "grep -lx "+serial+" /sys/block/vd*/serial")
		path := strings.TrimSpace(out)
		if there := err == nil && path != ""; there == want {
			return "/dev/" + filepath.Base(filepath.Dir(path)), nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return "", err
		}
	}
}
