package qemuimg

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Each failure has its own reason, found from what qemu-img prints.
func TestFailuresAreTold(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	const qcow, raw = driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2, driverv1.VolumeFormat_VOLUME_FORMAT_RAW
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, absent := ReadInfo(ctx, filepath.Join(dir, "absent"), raw)
	_, notQcow := ReadInfo(ctx, text, qcow)
	_, noFormat := ReadInfo(ctx, text, 0)
	_, ended := ReadInfo(cancelled, text, raw)
	for name, tc := range map[string]struct {
		err  error
		want metav1.Reason
	}{
		"absent":     {absent, metav1.Reason_REASON_VOLUME_NOT_FOUND},
		"not qcow2":  {notQcow, metav1.Reason_REASON_IMAGE_REFUSED},
		"no format":  {noFormat, metav1.Reason_REASON_INVALID_FIELD},
		"cancelled":  {ended, metav1.Reason_REASON_BACKEND_TIMEOUT},
		"disk full":  {CreateBlank(ctx, "/dev/full", qcow, 1<<20, ""), metav1.Reason_REASON_NO_SPACE},
		"relative":   {CreateBlank(ctx, "nbd:host:1", qcow, 1<<20, ""), metav1.Reason_REASON_INTERNAL},
		"good is ok": {CreateBlank(ctx, filepath.Join(dir, "good"), qcow, 1<<20, ""), 0},
	} {
		if tc.want == 0 && tc.err != nil || tc.want != 0 && !fault.Is(tc.err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, tc.err, tc.want)
		}
	}
}
