// Package accelerator finds out what guests run on, by running one: a device that opens proves nothing.
package accelerator

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// limit is how long a guest of one sector may take under KVM; a working one takes some tens of milliseconds after QEMU has started.
const limit = 4 * time.Second

// Verdict is what guests run on, and how that is known.
type Verdict struct {
	Requested, Accelerator, Reason string
	Duration                       time.Duration
}

// bootSector writes 0x2a to QEMU's debug exit port; QEMU then ends with status 2*0x2a+1.
var bootSector = func() []byte {
	b := make([]byte, 512)
	copy(b, []byte{0xb0, 0x2a, 0xba, 0xf4, 0x00, 0xee, 0xf4}) // mov al,0x2a; mov dx,0xf4; out dx,al; hlt
	b[510], b[511] = 0x55, 0xaa
	return b
}()

const exitStatus = 2*0x2a + 1

// Probe obeys requested "kvm" or "tcg"; for "auto" it boots a guest of one sector under KVM. dir is for a temporary file.
func Probe(ctx context.Context, requested, qemu, dir string) Verdict {
	start := time.Now()
	v := Verdict{Requested: requested}
	switch requested {
	case "kvm", "tcg":
		v.Accelerator, v.Reason = requested, "set by the configuration"
	default:
		if err := tryKVM(ctx, qemu, dir); err != nil {
			v.Accelerator, v.Reason = "tcg", "KVM does not work here: "+err.Error()
		} else {
			v.Accelerator, v.Reason = "kvm", "a guest ran under KVM"
		}
	}
	v.Duration = time.Since(start)
	return v
}

func arguments(accel, image string) []string {
	return []string{
		"-accel", accel, "-machine", "pc", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-drive", "file=" + image + ",format=raw,if=ide",
	}
}

func tryKVM(ctx context.Context, qemu, dir string) error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_ = f.Close()
	image := filepath.Join(dir, "kvm-probe.img")
	if err := os.WriteFile(image, bootSector, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(image) }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, arguments("kvm", image)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("a guest of one sector did not finish within %s", limit)
	case cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == exitStatus:
		return nil
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return fmt.Errorf("%w: %s", err, line)
}
