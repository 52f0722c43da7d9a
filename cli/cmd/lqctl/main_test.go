package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/fakeapi"
)

// TestMain lets this test's binary be lqctl.
func TestMain(m *testing.M) {
	if os.Getenv("LQCTL_TEST_AS_BINARY") == "1" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// A real Ctrl-C ends the wait, not the operation, and says how to go on.
func TestInterruptSignal(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := fakeapi.Start(t)
	server.Hold = true
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self, "vm", "create", "web")
	cmd.Env = []string{"LQCTL_TEST_AS_BINARY=1", "LQCTL_SERVER=" + server.URL, "LQCTL_TOKEN=" + fakeapi.Token, "HOME=" + t.TempDir()}
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	server.WaitFor(t, func() bool { return server.Calls["WaitOperation"] > 0 })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the exit code is looked at below
	if cmd.ProcessState.ExitCode() != 130 || !strings.Contains(errs.String(), "operation op-1 goes on") || out.Len() != 0 {
		t.Errorf("exit %d\n%s%s", cmd.ProcessState.ExitCode(), out.String(), errs.String())
	}
}
