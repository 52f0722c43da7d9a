package ovs_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// queueBytes is how much the switch's socket of a device may hold: the kernel's usual 208 KiB are some 270 packets, and so many come while the switch waits for a processor of a busy machine.
const queueBytes = 64 << 20

// deepen gives the sockets of a device, by which the switch takes what its guest sends, a queue that holds what comes while the switch is held up, as the guests' own queues do. With the
// datapath in user space the switch takes packets of taps in the thread that also takes flows.
func (o *openvswitch) deepen(device string) error {
	if datapath() != "netdev" {
		return nil
	}
	link, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	table, err := os.ReadFile("/proc/net/packet")
	if err != nil {
		return err
	}
	inodes := map[string]bool{}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) >= 9 && f[4] == strconv.Itoa(link.Index) {
			inodes["socket:["+f[8]+"]"] = true
		}
	}
	pid := o.vswitchd.cmd.Process.Pid
	self, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(self) }()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return err
	}
	found := false
	for _, path := range fds {
		if to, err := os.Readlink(path); err != nil || !inodes[to] {
			continue
		}
		n, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			return err
		}
		fd, err := unix.PidfdGetfd(self, n, 0)
		if err != nil {
			return err
		}
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueBytes)
		_ = unix.Close(fd)
		if err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("ovs-vswitchd takes no packets of %s", device)
	}
	return nil
}
