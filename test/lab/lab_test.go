package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bootTimeout is generous: guests run without KVM on a machine that others use.
const bootTimeout = 300 * time.Second

// testNode starts a node that the test's end stops, in a folder with a short path.
func testNode(t *testing.T, name string) *Node {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n, err := StartNode(t.Context(), filepath.Join(dir, name), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func bootContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	t.Cleanup(cancel)
	return ctx
}

// define makes a domain of XML through virsh.
func define(t *testing.T, n *Node, xml string) {
	t.Helper()
	file := filepath.Join(n.Dir, "domain.xml")
	if err := os.WriteFile(file, []byte(xml), 0o644); err != nil {
		t.Fatal(err)
	}
	virsh(t, n, "define", file)
}

func virsh(t *testing.T, n *Node, args ...string) string {
	t.Helper()
	out, err := n.Virsh(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// busyboxXML is a domain that boots the busybox guest; its console is a file.
func busyboxXML(g Guest, name, console, cmdline string) string {
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>7b0f7c1e-7a3a-4d5c-9a51-0d6c1c6f0a01</uuid>
<memory unit='MiB'>96</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s</kernel><initrd>%s</initrd>
<cmdline>console=ttyS0 quiet panic=1 labname=%[1]s %[5]s</cmdline></os>
<features><acpi/><apic/></features>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<serial type='file'><source path='%[4]s' append='on'/><target port='0'/></serial>
<interface type='user'><model type='virtio'/><rom enabled='no'/></interface>
</devices></domain>`, name, g.Kernel, g.Initrd, console, cmdline)
}

func waitLine(t *testing.T, ctx context.Context, file string, offset int64, text string) string {
	t.Helper()
	line, err := WaitLineAfter(ctx, file, offset, text)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	s, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return s.Size()
}

// waitState waits until virsh reports a domain state.
func waitState(t *testing.T, ctx context.Context, n *Node, domain, state string) {
	t.Helper()
	for {
		got := strings.TrimSpace(virsh(t, n, "domstate", domain))
		if got == state {
			return
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			t.Fatalf("domain %s is %s, want %s: %v", domain, got, state, err)
		}
	}
}
