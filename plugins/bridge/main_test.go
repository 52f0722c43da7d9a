// Package bridge_test runs the built plugin in a process of its own, as an agent does, in a network namespace that the tests make; guests are namespaces on veths that have the
// names of the taps. Nothing touches the network of the host.
package bridge_test

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside is set in the process that has namespaces of its own, so that every link, rule and mount ends with it.
const inside = "LQ_TEST_INSIDE"

func TestMain(m *testing.M) {
	if what := os.Getenv(probes); what != "" {
		os.Exit(probe(what))
	}
	if frames := os.Getenv(sendFrames); frames != "" {
		os.Exit(send(frames))
	}
	if os.Getenv(inside) == "" {
		os.Exit(isolated())
	}
	for _, dir := range []string{"/run", "/sys"} {
		kind := map[string]string{"/run": "tmpfs", "/sys": "sysfs"}[dir]
		if err := unix.Mount(kind, dir, kind, 0, ""); err != nil && err != unix.EBUSY { // "ip netns exec" has mounted it
			fmt.Fprintln(os.Stderr, dir, err)
			os.Exit(1)
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		fmt.Fprintln(os.Stderr, err, string(out))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// isolated runs the tests again in namespaces of their own. The process namespace ends what a test started and forgot.
func isolated() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in namespaces of their own (needs root):", err)
		return 1
	}
	return 0
}
