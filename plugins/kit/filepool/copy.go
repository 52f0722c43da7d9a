package filepool

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/plugins/kit/qemuimg"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// copyFile makes a file with a source's content at path. Where the file system can share blocks, and the source is one file of that format, nothing is copied.
func (p *Pool) copyFile(ctx context.Context, src source, path string, format driverv1.VolumeFormat) error {
	alone := len(src.layers) <= 1 && (src.image == "" || src.linked && len(src.layers) == 0)
	if alone && src.format == format && share(src.path, path) == nil {
		return nil
	}
	return qemuimg.Convert(ctx, src.path, src.format, path, format)
}

// share makes a file that shares its blocks with another until one is written.
func share(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	if err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd())); err != nil {
		_ = os.Remove(to)
		return err
	}
	return nil
}
