package lvm_test

import (
	"context"
	"fmt"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// writePattern writes to a device in the lab guest, where a hypervisor would.
func (r *rig) writePattern(ctx context.Context, src *driverv1.DiskSource, pattern byte, offset, n int64) error {
	_, err := r.Sh(ctx, fmt.Sprintf(`set -e; head -c %d /dev/zero | tr '\0' '\%03o' | dd of=%s bs=4096 seek=%d conv=notrunc,fsync iflag=fullblock 2>/dev/null`,
		n, pattern, src.GetBlockDevice().GetPath(), offset/4096))
	return err
}
