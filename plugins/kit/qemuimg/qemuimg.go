// Package qemuimg is the one place that runs qemu-img. Formats are always explicit, paths absolute (so that none is read as a protocol), memory
// and CPU time bounded, and failures classified from what qemu-img prints.
package qemuimg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Limits of one run, so that a hostile image cannot take the node: address space in bytes, CPU time in seconds.
const (
	maxAddressSpace = 2 << 30
	maxCPUSeconds   = 3600
)

// FormatName is a format as qemu-img and libvirt write it.
func FormatName(f driverv1.VolumeFormat) (string, error) {
	switch f {
	case driverv1.VolumeFormat_VOLUME_FORMAT_RAW:
		return "raw", nil
	case driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2:
		return "qcow2", nil
	}
	return "", fault.Invalid(fault.Violation{Field: "format", Description: "must be RAW or QCOW2"})
}

// Info is what qemu-img says of an image.
type Info struct {
	VirtualSize    int64  `json:"virtual-size"` // bytes
	ActualSize     int64  `json:"actual-size"`  // bytes that the file takes
	Format         string `json:"format"`
	BackingFile    string `json:"backing-filename"`
	FormatSpecific struct {
		Data struct {
			DataFile string `json:"data-file"`
		} `json:"data"`
	} `json:"format-specific"`
}

// ReadInfo describes an image without following its backing chain. It works on an image that QEMU has open.
func ReadInfo(ctx context.Context, path string, format driverv1.VolumeFormat) (Info, error) {
	name, err := FormatName(format)
	if err != nil {
		return Info{}, err
	}
	out, err := run(ctx, path, "info", "--output=json", "--force-share", "-f", name, "--", path)
	if err != nil {
		return Info{}, err
	}
	var info Info
	if err := json.Unmarshal(out, &info); err != nil {
		return Info{}, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "qemu-img info of %s: %w", path, err)
	}
	return info, nil
}

// CreateBlank makes an empty image of size bytes. preallocation is "off" (also if empty), "metadata" (qcow2; off for raw) or "full".
func CreateBlank(ctx context.Context, path string, format driverv1.VolumeFormat, size int64, preallocation string) error {
	name, err := FormatName(format)
	if err != nil {
		return err
	}
	args := []string{"create", "-q", "-f", name}
	switch {
	case preallocation == "full" && format == driverv1.VolumeFormat_VOLUME_FORMAT_RAW, preallocation == "metadata" && format == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2:
		args = append(args, "-o", "preallocation="+preallocation)
	case preallocation == "full": // room is taken by fallocate where there is one, else by zeros
		args = append(args, "-o", "preallocation=falloc")
	}
	_, err = run(ctx, path, append(args, "--", path, strconv.FormatInt(size, 10))...)
	return err
}

// Rebase lets an image of ours that nobody has open rest on another backing image, or on none if that is empty: what it needs of the old one is copied into it.
func Rebase(ctx context.Context, path, backing string, backingFormat driverv1.VolumeFormat) error {
	args := []string{"rebase", "-q", "-f", "qcow2", "-b", backing}
	if backing != "" {
		name, err := FormatName(backingFormat)
		if err != nil {
			return err
		}
		args = append(args, "-F", name)
	}
	_, err := run(ctx, path, append(args, "--", path)...)
	return err
}

// CreateOverlay makes a qcow2 image of size bytes on top of a backing image of ours; the backing image must stay and not change.
func CreateOverlay(ctx context.Context, path, backing string, backingFormat driverv1.VolumeFormat, size int64) error {
	name, err := FormatName(backingFormat)
	if err != nil {
		return err
	}
	_, err = run(ctx, path, "create", "-q", "-f", "qcow2", "-b", backing, "-F", name, "--", path, strconv.FormatInt(size, 10))
	return err
}

// Convert copies an image into a new one of another format; zeros stay holes.
func Convert(ctx context.Context, from string, fromFormat driverv1.VolumeFormat, to string, toFormat driverv1.VolumeFormat) error {
	src, err := FormatName(fromFormat)
	if err != nil {
		return err
	}
	dst, err := FormatName(toFormat)
	if err != nil {
		return err
	}
	_, err = run(ctx, to, "convert", "-q", "-f", src, "-O", dst, "--", from, to)
	return err
}

// Resize grows an image that nobody has open.
func Resize(ctx context.Context, path string, format driverv1.VolumeFormat, size int64) error {
	name, err := FormatName(format)
	if err != nil {
		return err
	}
	_, err = run(ctx, path, "resize", "-q", "-f", name, "--", path, strconv.FormatInt(size, 10))
	return err
}

func run(ctx context.Context, path string, args ...string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("qemu-img: %q is not absolute", path)
	}
	cmd, stderr := command(ctx, args...)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Run(); err != nil {
		return nil, classify(ctx, err, args[0], path, stderr.String())
	}
	return stdout.Bytes(), nil
}

// command prepares a run under limits, with an explicit environment.
func command(ctx context.Context, args ...string) (cmd *exec.Cmd, stderr *bytes.Buffer) {
	argv := append([]string{
		"--as=" + strconv.Itoa(maxAddressSpace), "--cpu=" + strconv.Itoa(maxCPUSeconds), "--core=0", "--", "qemu-img",
	}, args...)
	cmd, stderr = exec.CommandContext(ctx, "prlimit", argv...), &bytes.Buffer{}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	cmd.Stderr = stderr
	return cmd, stderr
}

// classify turns a failure of qemu-img into a reason, by what it printed: its exit code is always 1.
func classify(ctx context.Context, err error, verb, path, stderr string) error {
	if ctx.Err() != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "qemu-img %s of %s: %w", verb, path, ctx.Err())
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "qemu-img %s: %w", verb, err).WithRemedy("install qemu-utils")
	}
	text := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(stderr), "qemu-img: "))
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		text = text[:i]
	}
	reason := metav1.Reason_REASON_BACKEND_FAILED
	switch {
	case strings.Contains(text, "No space left on device"), strings.Contains(text, "Disk quota exceeded"):
		reason = metav1.Reason_REASON_NO_SPACE
	case strings.Contains(text, `Failed to get "write" lock`), strings.Contains(text, `Failed to get shared "write" lock`):
		reason = metav1.Reason_REASON_VOLUME_IN_USE
	case strings.Contains(text, "No such file or directory") && strings.Contains(text, "prlimit"):
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "qemu-img %s: %s", verb, text).WithRemedy("install qemu-utils")
	case strings.Contains(text, "No such file or directory"):
		reason = metav1.Reason_REASON_VOLUME_NOT_FOUND
	case strings.Contains(text, "Image is not in qcow2 format"), strings.Contains(text, "Unknown driver"):
		reason = metav1.Reason_REASON_IMAGE_REFUSED
	}
	return fault.New(reason, "qemu-img %s of %s: %s (%w)", verb, path, text, err)
}

// Extent is a part of what a guest sees of an image.
type Extent struct {
	Start      int64  `json:"start"`
	Length     int64  `json:"length"`
	Zero       bool   `json:"zero"`
	Data       bool   `json:"data"`
	Compressed bool   `json:"compressed"`
	Depth      int    `json:"depth"`  // 0 = the image itself, 1 = what it rests on, and so on
	Offset     *int64 `json:"offset"` // in the file at that depth; nil = the bytes lie nowhere as they are
}

// Map tells, in order, where the parts of an image and of what it rests on lie. It holds one extent in memory at a time, and ends when each fails.
func Map(ctx context.Context, path string, format driverv1.VolumeFormat, each func(Extent) error) error {
	name, err := FormatName(format)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, stderr := command(ctx, "map", "--output=json", "-f", name, "--", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "qemu-img map: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return classify(ctx, err, "map", path, "")
	}
	dec, told := json.NewDecoder(out), error(nil)
	_, err = dec.Token() // the list begins
	for err == nil && told == nil && dec.More() {
		var e Extent
		if err = dec.Decode(&e); err == nil {
			told = each(e)
		}
	}
	if told != nil {
		cancel()
		_ = cmd.Wait()
		return told
	}
	if werr := cmd.Wait(); werr != nil {
		return classify(ctx, werr, "map", path, stderr.String())
	}
	if err != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "qemu-img map of %s: %w", path, err)
	}
	return nil
}
