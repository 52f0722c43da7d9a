package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// pool is a backend to measure: the plugin, launched as an agent does, beside the raw tool on the same backend.
type pool struct {
	Driver     string
	Parameters map[string]string
	Secrets    map[string][]byte

	Rounds    int
	ImportMiB int
	Volumes   int // of the walk

	// raw runs one of rawVerbs with the bare tool and says how long it took. Names are new for each i.
	raw func(ctx context.Context, verb string, i int) (time.Duration, error)
	// convert brings an image to the backend with qemu-img convert, durably, and removes it afterwards, which does not count. It is nil where the CPU is emulated:
	// there TLS and SHA-256 of an import take all the time.
	convert func(ctx context.Context, file, format string, i int) (time.Duration, error)
}

// rawVerbs are what is measured, in the order of an object's life.
var rawVerbs = []string{"create", "snapshot", "clone", "delete"}

const volumeBytes = 64 << 20

// id is a UUID that says what it is for.
func id(kind, i int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", kind, i) }

// Kinds of id.
const (
	anyNode = iota + 1
	anyPool
	someVolume
	someSnapshot
	someClone
	someImage
	walked
)

var clusterID, nodeID = id(anyNode, 1), id(anyNode, 2)

// measured is a launched plugin with its pool.
type measured struct {
	pool
	process *host.Process
	client  driverv1.StorageDriverServiceClient
}

// measurePool measures everything of one pool. pluginDir is the plugin's folder.
func measurePool(ctx context.Context, p pool, pluginDir string, got samples) (err error) {
	dir, err := os.MkdirTemp("", "lqs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	proc, err := host.Launch(ctx, host.Spec{
		Dir: pluginDir, RuntimeDir: filepath.Join(dir, "run"), StartTimeout: 2 * time.Minute,
		Host: &driverv1.HostFacts{ClusterId: clusterID, NodeId: nodeID, NodeName: "bench", BootId: "b", StateDirectory: filepath.Join(dir, "state"), RuntimeDirectory: filepath.Join(dir, "r")},
	})
	if err != nil {
		return err
	}
	m := &measured{pool: p, process: proc, client: driverv1.NewStorageDriverServiceClient(proc.Conn())}
	defer func() {
		_, rerr := m.client.ReleasePool(ctx, &driverv1.ReleasePoolRequest{PoolId: id(anyPool, 0)})
		err = errors.Join(err, rerr, proc.Stop(ctx, 10*time.Second))
	}()
	_, err = m.client.EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: id(anyPool, 0), Parameters: p.Parameters, Secrets: p.Secrets})
	if err != nil {
		return err
	}
	for _, f := range []func(context.Context, string, samples) error{m.life, m.walk, m.imports} {
		if err := f(ctx, dir, got); err != nil {
			return err
		}
	}
	return nil
}

// mark is of what lies in the pool: of the cluster where nodes share it.
func (m *measured) mark(object string) *driverv1.OwnershipMark {
	k := &driverv1.OwnershipMark{ClusterId: clusterID, ObjectId: object, Generation: 1, Epoch: 1}
	if m.Driver == "local" || m.Driver == "lvm" {
		k.NodeId = nodeID
	}
	return k
}

func (m *measured) name(workload string) string { return "storage_" + m.Driver + "_" + workload }

// life measures create, snapshot, clone and delete, each beside the raw tool.
func (m *measured) life(ctx context.Context, _ string, got samples) error {
	pid := id(anyPool, 0)
	for i := range m.Rounds + 1 {
		v, s, c := id(someVolume, i), id(someSnapshot, i), id(someClone, i)
		acts := map[string]func() error{
			"create": func() error {
				_, err := m.client.CreateVolume(ctx, &driverv1.CreateVolumeRequest{PoolId: pid, VolumeId: v, Mark: m.mark(v), SizeBytes: volumeBytes})
				return err
			},
			"snapshot": func() error {
				_, err := m.client.CreateSnapshot(ctx, &driverv1.CreateSnapshotRequest{PoolId: pid, SnapshotId: s, VolumeId: v, Mark: m.mark(s)})
				return err
			},
			"clone": func() error {
				_, err := m.client.CreateVolume(ctx, &driverv1.CreateVolumeRequest{PoolId: pid, VolumeId: c, Mark: m.mark(c), Source: &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: s}}})
				return err
			},
			"delete": func() error {
				_, err := m.client.DeleteVolume(ctx, &driverv1.DeleteVolumeRequest{PoolId: pid, VolumeId: c})
				return err
			},
		}
		for _, verb := range rawVerbs {
			began := time.Now()
			if err := acts[verb](); err != nil {
				return fmt.Errorf("%s: %s: %w", m.Driver, verb, err)
			}
			ours := time.Since(began)
			raw, err := m.raw(ctx, verb, i)
			if err != nil {
				return fmt.Errorf("%s: %s with the raw tool: %w", m.Driver, verb, err)
			}
			if i > 0 { // the first fills caches
				got.add(m.name(verb+"_ratio"), ours.Seconds()/raw.Seconds())
				fmt.Fprintf(os.Stderr, "%s %s: %.1f ms, raw %.1f ms\n", m.Driver, verb, milliseconds(ours), milliseconds(raw))
			}
		}
		if _, err := m.client.DeleteSnapshot(ctx, &driverv1.DeleteSnapshotRequest{PoolId: pid, SnapshotId: s}); err != nil {
			return err
		}
		if _, err := m.client.DeleteVolume(ctx, &driverv1.DeleteVolumeRequest{PoolId: pid, VolumeId: v}); err != nil {
			return err
		}
		if _, err := m.raw(ctx, "forget", i); err != nil {
			return err
		}
	}
	return nil
}

// walk lists many volumes, and counts the processes that are started meanwhile.
func (m *measured) walk(ctx context.Context, _ string, got samples) error {
	pid := id(anyPool, 0)
	for i := range m.Volumes {
		v := id(walked, i)
		if _, err := m.client.CreateVolume(ctx, &driverv1.CreateVolumeRequest{PoolId: pid, VolumeId: v, Mark: m.mark(v), SizeBytes: 4 << 20}); err != nil {
			return err
		}
	}
	for range 3 {
		before, err := forks()
		if err != nil {
			return err
		}
		began, seen := time.Now(), 0
		for token := ""; ; {
			r, err := m.client.ListVolumes(ctx, &driverv1.ListVolumesRequest{PoolId: pid, PageToken: token})
			if err != nil {
				return err
			}
			seen += len(r.GetVolumes())
			if token = r.GetNextPageToken(); token == "" {
				break
			}
		}
		took := time.Since(began)
		after, err := forks()
		if err != nil {
			return err
		}
		if seen != m.Volumes {
			return fmt.Errorf("%s: a walk met %d of %d volumes", m.Driver, seen, m.Volumes)
		}
		got.add(m.name("walk_ms"), milliseconds(took))
		got.add(m.name("walk_processes"), float64(after-before))
	}
	for i := range m.Volumes {
		if _, err := m.client.DeleteVolume(ctx, &driverv1.DeleteVolumeRequest{PoolId: pid, VolumeId: id(walked, i)}); err != nil {
			return err
		}
	}
	return nil
}

// forks is how many processes and threads this machine has started.
func forks() (n int, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "\nprocesses ")
	_, err = fmt.Sscan(rest, &n)
	return n, err
}

// imports measures images in both formats beside qemu-img convert, and the plugin's memory after them.
func (m *measured) imports(ctx context.Context, dir string, got samples) error {
	raw, qcow2 := filepath.Join(dir, "image.raw"), filepath.Join(dir, "image.qcow2")
	if err := writeImage(raw, int64(m.ImportMiB)<<20); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2).CombinedOutput(); err != nil { //nolint:gosec // ours
		return fmt.Errorf("%w: %s", err, out)
	}
	files := map[string]string{"raw": raw, "qcow2": qcow2}
	idle, err := statusMiB(m.process.PID(), "VmHWM")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s memory before imports: %.1f MiB\n", m.Driver, idle)
	rounds := importRounds + 1
	if m.convert == nil {
		rounds = 1
	}
	for i := range rounds {
		for format, file := range files {
			began := time.Now()
			if err := m.upload(ctx, file, format, id(someImage, i)); err != nil {
				return fmt.Errorf("%s: import %s: %w", m.Driver, format, err)
			}
			ours := time.Since(began)
			var bare, sum time.Duration
			if i > 0 { // the first fills caches
				if bare, err = m.convert(ctx, file, format, i); err != nil {
					return fmt.Errorf("%s: qemu-img convert %s: %w", m.Driver, format, err)
				}
				if sum, err = timed(ctx, `sha256sum "$1"`, file); err != nil {
					return err
				}
			}
			if _, err := m.client.DeleteImage(ctx, &driverv1.DeleteImageRequest{PoolId: id(anyPool, 0), ImageId: id(someImage, i)}); err != nil {
				return err
			}
			if i > 0 {
				got.add(m.name("import_"+format+"_speed"), bare.Seconds()/ours.Seconds())
				got.add(m.name("import_"+format+"_checked_speed"), (bare+sum).Seconds()/ours.Seconds()) // what an import does, by hand
				rate := func(d time.Duration) float64 { return float64(m.ImportMiB) / d.Seconds() }
				fmt.Fprintf(os.Stderr, "%s import %s: %.0f MiB/s, qemu-img %.0f MiB/s, sha256sum before it %.0f MiB/s\n", m.Driver, format, rate(ours), rate(bare), rate(bare+sum))
			}
		}
	}
	peak, err := statusMiB(m.process.PID(), "VmHWM")
	got.add(m.name("import_rss_mib"), peak)
	return err
}

const importRounds = 5

// upload streams a file as the agent does.
func (m *measured) upload(ctx context.Context, file, format, image string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	s, err := m.client.ImportImage(ctx)
	if err != nil {
		return err
	}
	h := &driverv1.ImportImageHeader{PoolId: id(anyPool, 0), ImageId: image, Mark: m.mark(image), ContentBytes: st.Size(), Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW}
	if format == "qcow2" {
		h.Format = driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2
	}
	err = s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: h}})
	for buf := make([]byte, 1<<20); err == nil; {
		var n int
		if n, err = f.Read(buf); err == nil {
			err = s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: buf[:n]}})
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	_, err = s.CloseAndRecv()
	return err
}

// writeImage writes a raw image: every other MiB is data that nothing compresses, the rest holes.
func writeImage(path string, size int64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	random, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer random.Close() //nolint:errcheck // only read
	buf := make([]byte, 1<<20)
	for at := int64(0); at < size; at += 2 << 20 {
		if _, err := io.ReadFull(random, buf); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf, at); err != nil {
			return err
		}
	}
	return errors.Join(f.Truncate(size), f.Sync())
}

// timed runs a line of shell and says how long it took.
func timed(ctx context.Context, line string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-ec", line, "sh"}, args...)...) //nolint:gosec // ours
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return time.Since(began), nil
}

// inside measures a pool in the lab guest, where this program runs then: args are a driver and its plugin's folder. It prints the samples.
func inside(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: bench inside DRIVER PLUGIN-FOLDER")
	}
	got := samples{}
	measure := map[string]func() error{
		"nfs":    func() error { return measurePool(ctx, nfsPool(), args[1], got) },
		"lvm":    func() error { return measurePool(ctx, lvmPool(), args[1], got) },
		"bridge": func() error { return measureNetwork(ctx, args[0], args[1], got) },
		"ovs":    func() error { return measureNetwork(ctx, args[0], args[1], got) },
	}[args[0]]
	if measure == nil {
		return fmt.Errorf("nothing is measured of %s", args[0])
	}
	if err := measure(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}
