package lvm

import (
	"fmt"
	"os"
	"strings"
)

// Config is what LVM may see and how it works with the host.
type Config struct {
	// Devices are the only ones that LVM may look at; none = every device.
	Devices []string
	// Udev says that a udevd runs, which makes the links in /dev; else LVM makes them.
	Udev bool
}

// UdevRuns reports whether a udevd runs on this host.
func UdevRuns() bool {
	_, err := os.Stat("/run/udev/control")
	return err == nil
}

// text is the lvm.conf. Its locks are the host's, so that an administrator's commands and ours wait for each other. Nothing is backed up: what an
// administrator's own commands keep in /etc/lvm stays theirs. A device that is in use is not tried for five seconds again and again, unless
// a udevd may hold it for a moment.
func (c Config) text() string {
	filter := `"a|.*|"`
	if len(c.Devices) > 0 {
		var b strings.Builder
		for _, d := range c.Devices {
			fmt.Fprintf(&b, "%q, ", "a|^"+quoteRegexp(d)+"$|")
		}
		filter = b.String() + `"r|.*|"`
	}
	udev := 0
	if c.Udev {
		udev = 1
	}
	return fmt.Sprintf(`# Written by limiquantix's lvm plugin, again at each EnsurePool.
devices {
	dir = "/dev"
	scan = [ "/dev" ]
	obtain_device_list_from_udev = 0
	use_devicesfile = 0
	scan_lvs = 0
	global_filter = [ %s ]
}
activation {
	udev_sync = %d
	udev_rules = %d
	monitoring = 0
	retry_deactivation = %d
	thin_pool_autoextend_threshold = 100
}
backup {
	backup = 0
	archive = 0
}
global {
	use_lvmpolld = 0
}
`, filter, udev, udev, udev)
}

// quoteRegexp makes a path match itself only. LVM's expressions know no backslash in a configuration's string, but sets.
func quoteRegexp(path string) string {
	var b strings.Builder
	for _, r := range path {
		if strings.ContainsRune(`.+*?^$|()[]{}`, r) {
			fmt.Fprintf(&b, "[%c]", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
