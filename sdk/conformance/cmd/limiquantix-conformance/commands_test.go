package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "out")
	write := writeBy([]string{"/bin/sh", "-c", `cat > "$0"; echo " $*" >> "$0"`, out})
	src := &driverv1.DiskSource{Source: &driverv1.DiskSource_BlockDevice{BlockDevice: &driverv1.BlockDeviceSource{Path: "/dev/x"}}}
	for range 2 {
		if err := write(t.Context(), src, 0xa1, 512, 1024); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(got), `"/dev/x"`) || !strings.HasSuffix(string(got), " 161 512 1024\n") {
		t.Errorf("%q, %v", got, err)
	}
	if err := writeBy([]string{"/bin/sh", "-c", "echo broken >&2; exit 3"})(t.Context(), src, 1, 0, 1); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Error(err)
	}
	if names, err := objectsBy([]string{"/bin/echo", "-e", "a b\\nc"})(t.Context()); err != nil || !slices.Equal(names, []string{"a b", "c"}) {
		t.Error(names, err)
	}
}
