package accelerator

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What is told is obeyed without a try.
func TestObeys(t *testing.T) {
	t.Parallel()
	for _, want := range []string{"kvm", "tcg"} {
		if v := Probe(t.Context(), want, "/nonexistent", t.TempDir()); v.Accelerator != want || v.Reason == "" {
			t.Errorf("%+v", v)
		}
	}
}

// The sector really ends QEMU with the status that counts as proof: shown by emulation, which works everywhere.
func TestBootSectorRuns(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "sector")
	if err := os.WriteFile(image, bootSector, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/qemu-system-x86_64", arguments("tcg", image)...)
	out, _ := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != exitStatus {
		t.Errorf("status %v: %s", cmd.ProcessState, out)
	}
}

// A QEMU that hangs, fails or ends in another way is no proof.
func TestNoProof(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/kvm"); err != nil {
		if v := Probe(t.Context(), "auto", "/bin/true", t.TempDir()); v.Accelerator != "tcg" {
			t.Errorf("no device: %+v", v)
		}
		return
	}
	dir := t.TempDir()
	for name, script := range map[string]string{"ends": "exit 0", "fails": "echo no luck >&2; exit 1", "hangs": "exec sleep 600"} {
		qemu := filepath.Join(dir, name)
		if err := os.WriteFile(qemu, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil { //nolint:gosec // is run
			t.Fatal(err)
		}
		v := Probe(t.Context(), "auto", qemu, dir)
		if v.Accelerator != "tcg" || v.Reason == "" || v.Duration > 3*limit || name == "fails" && !strings.Contains(v.Reason, "no luck") {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.img")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
