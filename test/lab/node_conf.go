package lab

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// libvirtdConf: the host UUID is given because nodes on one machine would
// otherwise all have its DMI UUID, and migration between them be refused. TCP
// is for migration and listens in the node's own network namespace.
const libvirtdConf = `host_uuid = "%s"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
listen_tls = 0
listen_tcp = 1
listen_addr = "0.0.0.0"
auth_tcp = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
`

// qemuConf: as root, or libvirt finds that its guests may not use /dev/kvm,
// distrusts its capabilities cache and probes QEMU anew at every define.
const qemuConf = "user = \"root\"\ngroup = \"root\"\n"

// prepareDir writes the folders and settings of a node. Definitions of an
// earlier run stay; what lives in /run goes, as after a reboot.
func prepareDir(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, "run")); err != nil {
		return err
	}
	for _, d := range []string{"etc/qemu", "etc/hooks", "run", "lib", "log", "cache"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	id, err := hostUUID(filepath.Join(dir, "uuid"))
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"etc/libvirtd.conf":   fmt.Sprintf(libvirtdConf, id),
		"etc/qemu.conf":       qemuConf,
		"etc/libvirt.conf":    "",
		"etc/virtlogd.conf":   "",
		"etc/virtlockd.conf":  "",
		"etc/qemu-lockd.conf": "",
		"inner.sh":            nodeScript,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hostUUID returns the UUID kept in the file, making one at first use.
func hostUUID(file string) (string, error) {
	if old, err := os.ReadFile(file); err == nil {
		return strings.TrimSpace(string(old)), nil
	}
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	id := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	return id, os.WriteFile(file, []byte(id+"\n"), 0o644)
}
