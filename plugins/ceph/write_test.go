package ceph_test

import (
	"context"
	"fmt"
	"os/exec"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// writePattern writes to an image as a guest's QEMU does.
func (p cephPool) writePattern(ctx context.Context, src *driverv1.DiskSource, pattern byte, offset, n int64) error {
	spec := fmt.Sprintf("rbd:%s/%s:id=admin:conf=%s", src.GetRbd().GetPool(), src.GetRbd().GetImage(), p.Conf())
	out, err := exec.CommandContext(ctx, "qemu-io", "-f", "raw", "-c", fmt.Sprintf("write -P %d %d %d", pattern, offset, n), "-c", "flush", spec).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
