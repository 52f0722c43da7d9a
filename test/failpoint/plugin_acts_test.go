package failpoint_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func writeNew(name string, content []byte) error { return os.WriteFile(name, content, 0o600) }

func readAll(name string) ([]byte, error) { return os.ReadFile(name) }

// pluginAct is a part of what an agent asks of a storage plugin. It begins with no pool, and leaves an empty one.
type pluginAct struct {
	name   string
	do     func(*calls)
	shared bool // the pool is shared by nodes a and b
	// arms are the points that it arms itself, each once, for what is only done when something fails.
	arms []string
}

const (
	pointRun    = "plugins/kit/qemuimg/qemuimg.go:run#1:Run"
	pointClone  = "plugins/kit/filepool/copy.go:share#2:IoctlFileClone"
	pointPlace  = "plugins/kit/filepool/volume.go:Pool.place#3:Sync"
	pointRecord = "plugins/kit/filepool/record.go:Pool.writeFile#3:Sync"
	pointVoid   = "plugins/kit/filepool/attach.go:Pool.voidHolder#1:Rename"
)

var pluginActs = []pluginAct{
	{name: "pool", do: doPool},
	{name: "volumes", do: doVolumes},
	{name: "image", do: doImage},
	{name: "image refused", do: doImageRefused},
	{name: "snapshot", do: doSnapshot},
	{name: "snapshot over an image", do: doSnapshotOverImage},
	{name: "online snapshot", do: doOnlineSnapshot},
	{name: "copies", do: doCopies},
	{name: "streams", do: doStreams},
	{name: "leftovers", do: doLeftovers},
	{name: "failed programs", do: doFailedPrograms, arms: []string{pointRun}},
	{name: "failed files", do: doFailedFiles, arms: []string{pointPlace, pointRecord}},
	{name: "no sharing of blocks", do: doNoClone, arms: []string{pointClone}},
	{name: "shared pool", do: doShared, shared: true},
	{name: "shared pool, fenced node", do: doSharedFenced, shared: true},
	{name: "shared pool, race", do: doSharedRace, shared: true, arms: []string{pointVoid}},
}

func doPool(c *calls) {
	for range 2 {
		c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
			_, err := s.EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: pluginPool, Parameters: map[string]string{"path": c.r.path()}})
			return err
		})
		c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
			_, err := s.ReleasePool(ctx, &driverv1.ReleasePoolRequest{PoolId: pluginPool})
			return err
		})
		delete(c.r.ready, "a")
	}
}

func doVolumes(c *calls) {
	for _, format := range []driverv1.VolumeFormat{rawFormat, qcow2Format} {
		v := c.create(mib, format, nil)
		c.fill(v, 1)
		c.resize(v, 2*mib)
		c.volumeHolds(v, 1)
		c.remove(v)
	}
}

func doImage(c *calls) {
	img := c.importImage(pattern(1), rawFormat, false)
	over, copied := c.create(2*mib, qcow2Format, ofImage(img)), c.create(2*mib, rawFormat, ofImage(img))
	c.volumeHolds(over, 1)
	c.fill(over, 2)
	c.volumeHolds(over, 2)
	c.volumeHolds(copied, 1)
	c.imageHolds(img, 1)
	c.remove(over, copied)
	c.removeImage(img)
}

func doImageRefused(c *calls) {
	c.importImage(pattern(1), rawFormat, true)
	img := c.importImage(c.qcow2Of(pattern(2)), qcow2Format, false)
	c.imageHolds(img, 2) // its data lies nowhere as it is
	c.removeImage(img)
}

// doSnapshot takes two snapshots of a volume that nobody has open, makes volumes from them, goes back to each, and removes all.
func doSnapshot(c *calls) {
	v := c.create(mib, qcow2Format, nil)
	c.fill(v, 1)
	first, _ := c.snapshot(v)
	c.fill(v, 2)
	second, _ := c.snapshot(v)
	c.fill(v, 3)
	c.snapshotHolds(first, 1)
	c.snapshotHolds(second, 2)
	from := c.create(0, qcow2Format, ofSnapshot(first))
	c.restore(second, v)
	c.volumeHolds(v, 2)
	c.fill(v, 4)
	c.restore(first, v)
	c.volumeHolds(v, 1)
	c.fill(v, 5)
	c.removeSnapshots(second, first)
	c.volumeHolds(v, 5)
	c.volumeHolds(from, 1)
	c.remove(v)
	c.volumeHolds(from, 1)
	c.remove(from)
}

// doSnapshotOverImage removes a snapshot of a volume that rests on an image: what the snapshot alone had is merged into the volume.
func doSnapshotOverImage(c *calls) {
	img := c.importImage(pattern(1), rawFormat, false)
	v := c.create(mib, qcow2Format, ofImage(img))
	first, _ := c.snapshot(v)
	second, _ := c.snapshot(v)
	c.removeSnapshots(first)
	c.volumeHolds(v, 1)
	c.fill(v, 2)
	c.snapshotHolds(second, 1)
	c.removeSnapshots(second)
	c.volumeHolds(v, 2)
	c.remove(v)
	c.removeImage(img)
}

// doOnlineSnapshot takes snapshots of a volume that a guest has open: one is committed, one is not before the volume is detached.
func doOnlineSnapshot(c *calls) {
	v := c.create(mib, rawFormat, nil)
	src := c.attach("a", v, false, "")
	c.write(src, 1)
	first, overlay := c.snapshot(v)
	c.write(overlay, 2)
	c.commit(first, v)
	second, overlay := c.snapshot(v)
	c.write(overlay, 3)
	c.detach("a", v)
	c.volumeHolds(v, 3)
	c.snapshotHolds(first, 1)
	c.snapshotHolds(second, 2)
	c.removeSnapshots(first, second)
	c.volumeHolds(v, 3)
	c.remove(v)
}

func doCopies(c *calls) {
	v := c.create(mib, rawFormat, nil)
	c.fill(v, 1)
	same, other := c.create(2*mib, rawFormat, ofVolume(v)), c.create(2*mib, qcow2Format, ofVolume(v))
	c.fill(v, 2)
	c.volumeHolds(same, 1)
	c.volumeHolds(other, 1)
	c.remove(v, same, other)
}

func doStreams(c *calls) {
	for _, format := range []driverv1.VolumeFormat{rawFormat, qcow2Format} {
		v := c.importVolume(pattern(1), format, false)
		c.volumeHolds(v, 1)
		c.remove(v)
		c.importVolume(pattern(1), format, true)
	}
}

// doLeftovers puts files in a pool that have no record, as a crash leaves them; the next plugin removes them, and nothing else.
func doLeftovers(c *calls) {
	img := c.importImage(pattern(1), rawFormat, false)
	v := c.create(mib, qcow2Format, ofImage(img))
	s, _ := c.snapshot(v)
	stray := c.id()
	for _, name := range []string{"tmp/a-x.raw", "volumes/" + stray + ".raw", "volumes/" + v + ".0123456789abcdef.qcow2", "images/" + stray + ".qcow2"} {
		if c.err == nil {
			c.err = writeNew(filepath.Join(c.r.path(), name), []byte("x"))
		}
	}
	if c.err == nil {
		c.err = c.r.kill("a")
	}
	c.volumeHolds(v, 1)
	left, err := c.r.leftovers()
	for _, name := range left {
		if b, _ := readAll(filepath.Join(c.r.path(), name)); string(b) == "x" {
			c.err = errors.Join(c.err, errors.New(name+" is still there"))
		}
	}
	c.err = errors.Join(c.err, err)
	c.removeSnapshots(s)
	c.remove(v)
	c.removeImage(img)
}

// next makes the next visit of a point fail.
func (c *calls) next(point string) {
	if c.err == nil {
		c.r.spare++
		c.err = c.r.arm(point, "fail")
	}
}

func doFailedPrograms(c *calls) {
	c.next(pointRun)
	v := c.create(mib, qcow2Format, nil)
	c.fill(v, 1)
	c.next(pointRun)
	s, _ := c.snapshot(v)
	c.fill(v, 2)
	c.next(pointRun)
	c.restore(s, v)
	c.volumeHolds(v, 1)
	c.next(pointRun)
	c.removeSnapshots(s)
	c.volumeHolds(v, 1)
	c.next(pointRun)
	c.resize(v, 2*mib)
	c.remove(v)
}

func doFailedFiles(c *calls) {
	c.next(pointPlace)
	v := c.create(mib, qcow2Format, nil)
	c.next(pointRecord)
	c.attach("a", v, false, "")
	c.detach("a", v)
	c.next(pointRecord)
	s, _ := c.snapshot(v)
	c.removeSnapshots(s)
	c.remove(v)
}

// doNoClone copies where the file system shares no blocks.
func doNoClone(c *calls) {
	v := c.create(mib, rawFormat, nil)
	c.fill(v, 1)
	if c.err == nil {
		c.err = c.r.arm(pointClone, "fail")
	}
	copied := c.create(mib, rawFormat, ofVolume(v))
	c.volumeHolds(copied, 1)
	c.remove(v, copied)
}

// doShared attaches a volume of a shared pool by two nodes: alone, and together.
func doShared(c *calls) {
	v := c.create(mib, qcow2Format, nil)
	c.attach("a", v, false, "")
	c.inUse("b", v, false)
	c.detach("a", v)
	c.attach("a", v, false, "")
	c.inUse("b", v, true) // its file is made, and taken back
	c.detach("a", v)
	c.attach("a", v, true, "")
	c.attach("b", v, true, "")
	c.detach("a", v)
	c.inUse("a", v, false)
	c.detach("b", v)
	s, _ := c.snapshot(v)
	c.removeSnapshots(s)
	c.remove(v)
}

// inUse asks for a volume that another node has, and gives up.
func (c *calls) inUse(node, id string, shared bool) {
	c.refused(node, metav1.Reason_REASON_VOLUME_IN_USE, func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		_, err := s.AttachVolume(ctx, &driverv1.AttachVolumeRequest{PoolId: pluginPool, VolumeId: id, Shared: shared})
		return err
	})
	c.detach(node, id) // a call that was cut short may have left its file
}

// doSharedFenced takes over what a fenced node has: alone, with a snapshot that is pending, and shared.
func doSharedFenced(c *calls) {
	v := c.create(mib, rawFormat, nil)
	src := c.attach("a", v, false, "")
	c.write(src, 1)
	s, overlay := c.snapshot(v)
	c.write(overlay, 2)
	c.attach("b", v, false, "a")
	c.inUse("a", v, false)
	c.detach("b", v)
	c.volumeHolds(v, 2)
	c.snapshotHolds(s, 1)
	c.attach("a", v, true, "")
	c.attach("b", v, true, "a")
	c.detach("b", v)
	c.removeSnapshots(s)
	c.remove(v)
}

// doSharedRace lets another node attach between the look at a fenced node's attachment and its end: the other one keeps it.
func doSharedRace(c *calls) {
	v := c.create(mib, rawFormat, nil)
	c.attach("a", v, false, "")
	c.attach("b", v, false, "a") // b runs
	c.detach("b", v)
	c.attach("a", v, false, "")
	if c.err == nil {
		c.err = c.r.arm(pointVoid, "delay")
	}
	file := filepath.Join(c.r.path(), "volumes", v+".attached")
	swapped := make(chan error, 1)
	go func() {
		err := c.r.until(c.ctx, "the attachment is about to be moved aside", func() (bool, string) { return c.r.fired(pointVoid), "" })
		if err == nil {
			err = errors.Join(writeNew(file+".new", []byte(`{"node":"c"}`)), os.Rename(file+".new", file))
		}
		swapped <- err
	}()
	c.refused("b", metav1.Reason_REASON_VOLUME_IN_USE, func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		_, err := s.AttachVolume(ctx, &driverv1.AttachVolumeRequest{PoolId: pluginPool, VolumeId: v, FencedNodeId: "a"})
		return err
	})
	if c.err != nil {
		return
	}
	c.err = <-swapped
	if b, err := readAll(file); c.err == nil && (err != nil || !strings.Contains(string(b), `"c"`)) {
		c.err = errors.Join(err, errors.New("the third node's attachment became "+string(b)))
	}
	c.detach("c", v)
	c.remove(v)
}
