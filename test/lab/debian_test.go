package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// debianXML is a domain that boots a disk image by its own boot loader, with a
// seed CD and a guest agent's channel.
func debianXML(name, disk, seed, console string) string {
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name>
<memory unit='MiB'>512</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
<features><acpi/><apic/></features><cpu mode='custom'><model>qemu64</model></cpu>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='unsafe'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='%s'/><target dev='sda' bus='sata'/><readonly/></disk>
<serial type='file'><source path='%s' append='on'/><target port='0'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<interface type='user'><model type='virtio'/></interface>
</devices></domain>`, name, disk, seed, console)
}

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGq0pXYJ2zQdXoMBAlOe0Z2yB0gW2j1yQK8n4dEHvnfe lab-test"

func TestDebianGuestBoots(t *testing.T) {
	base, err := DebianGuest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := testNode(t, "d")
	ctx := bootContext(t)
	disk, seed, console := filepath.Join(n.Dir, "disk"), filepath.Join(n.Dir, "seed.iso"), filepath.Join(n.Dir, "console")
	if _, err := n.Exec(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, disk); err != nil {
		t.Fatal(err)
	}
	err = WriteSeed(seed, Seed{
		MetaData: "instance-id: i-1\nlocal-hostname: quartz\n",
		UserData: "#cloud-config\nssh_authorized_keys:\n  - " + testKey + "\n" +
			"write_files:\n  - path: /etc/lab-file\n    content: written by the seed\n" +
			"runcmd:\n  - [sh, -c, 'echo RUNCMD $(cat /etc/lab-file) > /dev/ttyS0']\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	define(t, n, debianXML("deb", disk, seed, console))
	virsh(t, n, "start", "deb")

	agentAnswers(t, ctx, n, "deb")
	for _, want := range []string{
		"Debian GNU/Linux 12 quartz ttyS0", // above the login prompt
		"RUNCMD written by the seed",
		"lab-test",                // the comment of the authorized key, beside its fingerprint
		"BEGIN SSH HOST KEY FING", // of the key that cloud-init made
		"DataSourceNoCloud",       // cloud-init's last line
	} {
		waitLine(t, ctx, console, 0, want)
	}
	if out := virsh(t, n, "qemu-agent-command", "deb", `{"execute":"guest-get-host-name"}`); !strings.Contains(out, "quartz") {
		t.Errorf("guest agent says of the host name: %s", out)
	}
	virsh(t, n, "shutdown", "deb", "--mode", "acpi")
	waitState(t, ctx, n, "deb", "shut off")
}

// agentAnswers returns when the guest agent of a domain does.
func agentAnswers(t *testing.T, ctx context.Context, n *Node, domain string) {
	t.Helper()
	for {
		_, err := n.Virsh(ctx, "qemu-agent-command", domain, `{"execute":"guest-ping"}`)
		if err == nil {
			return
		}
		if pause(ctx, 1e9) != nil {
			t.Fatalf("no answer from the guest agent: %v", err)
		}
	}
}
