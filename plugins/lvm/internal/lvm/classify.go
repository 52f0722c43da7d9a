package lvm

import (
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// class is a kind of failure and the words that tell it from others: every failure has exit code 5.
type class struct {
	reason metav1.Reason
	remedy string
	words  []string
}

// classes, the decisive first: a message of a later class may stand beside one of an earlier.
var classes = []class{
	{metav1.Reason_REASON_DEVICE_MISSING, "bring the device back, or see vgreduce --removemissing", []string{
		"while PVs are missing", "Refusing activation of partial LV", "Volume group \"", "Cannot access VG",
	}},
	{metav1.Reason_REASON_NO_SPACE, "extend the thin pool (lvextend), or delete volumes", []string{
		"free space in thin pool", "is out of data space", "is out of metadata space", "No space left on device", "out of space",
	}},
	{metav1.Reason_REASON_NO_SPACE, "extend the volume group (vgextend), or delete volumes", []string{
		"insufficient free space", "Insufficient free space", "Insufficient suitable", "not enough free",
	}},
	{metav1.Reason_REASON_SPEC_CONFLICT, "", []string{"already exists in volume group"}},
	{metav1.Reason_REASON_VOLUME_IN_USE, "end what has the device open", []string{
		" in use.", "contains a filesystem in use", "Can't remove open logical volume", "Device or resource busy", "is used by another device",
	}},
	{metav1.Reason_REASON_BUSY, "try again: another command of LVM holds the volume group", []string{
		"Can't get lock for", "Giving up waiting for lock", "flock failed", "File locking initialisation failed",
	}},
	{metav1.Reason_REASON_NOT_FOUND, "", []string{
		"Failed to find logical volume", "not found in volume group", "not found in Volume group",
	}},
	{metav1.Reason_REASON_ACCESS_DENIED, "the plugin must run as root", []string{"Operation not permitted", "Permission denied"}},
}

// classify makes an error of what a failed command said. Warnings count only when nothing else says why.
func classify(verb, stderr string, exit error) error {
	var said, warned []string
	for line := range strings.Lines(stderr) {
		switch line = strings.TrimSpace(line); {
		case line == "":
		case strings.HasPrefix(line, "WARNING:"):
			warned = append(warned, line)
		default:
			said = append(said, line)
		}
	}
	for _, lines := range [][]string{said, warned} {
		for _, c := range classes {
			if line := c.find(lines); line != "" {
				f := fault.New(c.reason, "lvm %s: %s", verb, line)
				if c.remedy != "" {
					f = f.WithRemedy("%s", c.remedy)
				}
				return f
			}
		}
	}
	all := strings.Join(append(said, warned...), "; ")
	if strings.Contains(all, "is missing PV") {
		return fault.New(metav1.Reason_REASON_DEVICE_MISSING, "lvm %s: %s", verb, all)
	}
	return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "lvm %s: %s (%w)", verb, all, exit)
}

func (c class) find(lines []string) string {
	for _, line := range lines {
		for _, w := range c.words {
			if !strings.Contains(line, w) {
				continue
			}
			// Both of these begin with the group's name; only one of them says that the group is not there.
			if w == "Volume group \"" && !strings.HasSuffix(line, "\" not found") {
				continue
			}
			return line
		}
	}
	return ""
}
