package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/stack"
)

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGxpbWlxdWFudGl4LXRlc3Qta2V5LTAwMDAwMDAwMDAw tour@limiquantix"

// The Debian guest boots from its own disk, with no kernel in the spec; cloud-init's host name and SSH key are seen on its console; its agent answers.
func TestDebianGuestBootsFromItsDisk(t *testing.T) {
	s := common(t)
	disk, err := lab.DebianGuest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(key, []byte(publicKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lq(t, s, "image", "import", "debian", "--file", disk, "--format", "qcow2")
	lq(t, s, "vm", "create", "deb", "--memory", "512M", "--image", "debian", "--hostname", "tulip-host", "--ssh-key", key)
	defer func() {
		lq(t, s, "vm", "delete", "deb")
		lq(t, s, "image", "delete", "debian")
	}()
	awaitConsole(t, s, "deb", "Debian GNU/Linux 12 tulip-host ttyS0")
	log := awaitConsole(t, s, "deb", "tour@limiquantix")
	if !strings.Contains(log, "tulip-host") {
		t.Error("no host name on the console")
	}
	err = stack.Until(t.Context(), bootLimit, "the guest's agent answers", func() (bool, string) {
		out, err := s.LQCtl(t.Context(), "vm", "show", "deb", "-o", "yaml")
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(out, "guestAgentConnected: true") && strings.Contains(out, "hostname: tulip-host"), out
	})
	if err != nil {
		t.Error(err)
	}
}
