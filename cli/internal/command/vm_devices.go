package command

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/nearest"
	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// storage adds the disks.
func (f *vmFlags) storage(spec *computev1.VMSpec) error {
	if f.image != "" {
		root := &computev1.InlineVolume{Image: f.image}
		if f.rootSize != "" {
			size, err := quantity.ParseBytes(f.rootSize)
			if err != nil {
				return failure.Usage("--root-size: %w", err).WithFix("write for example --root-size 10G")
			}
			root.SizeBytes = size
		}
		spec.Disks = append(spec.Disks, &computev1.Disk{Name: "root", Source: &computev1.Disk_Inline{Inline: root}})
	} else if f.rootSize != "" {
		return failure.Usage("--root-size needs --image").WithFix("give --image, or describe the disk with --disk size=...")
	}
	for _, text := range f.disks {
		d, err := parseDisk(text, fmt.Sprintf("disk%d", len(spec.Disks)))
		if err != nil {
			return failure.Usage("--disk %q: %w", text, err).WithFix("write for example --disk size=10G,name=data")
		}
		spec.Disks = append(spec.Disks, d)
	}
	return nil
}

// setting is one part of a flag's value: key=value, or key alone.
type setting struct {
	key, value string
	valued     bool
}

// settings splits "a=b,c". Every key must be among those known.
func settings(text string, known ...string) ([]setting, error) {
	var out []setting
	for _, part := range strings.Split(text, ",") {
		k, v, valued := strings.Cut(part, "=")
		ok := false
		for _, key := range known {
			ok = ok || key == k
		}
		if !ok {
			if near := nearest.Word(k, known); near != "" {
				return nil, fmt.Errorf("unknown key %q; did you mean %q?", k, near)
			}
			return nil, fmt.Errorf("unknown key %q; known: %s", k, strings.Join(known, ", "))
		}
		out = append(out, setting{k, v, valued})
	}
	return out, nil
}

// flagged reads a setting that is true when it stands alone.
func (s setting) flagged() (bool, error) {
	if !s.valued {
		return true, nil
	}
	b, err := strconv.ParseBool(s.value)
	if err != nil {
		return false, fmt.Errorf("%s must be true or false, not %q", s.key, s.value)
	}
	return b, nil
}

func parseDisk(text, name string) (*computev1.Disk, error) {
	parts, err := settings(text, "size", "image", "pool", "volume", "name", "bus", "format", "boot-order", "serial", "read-only", "discard")
	if err != nil {
		return nil, err
	}
	d, in, volume := &computev1.Disk{Name: name}, &computev1.InlineVolume{}, ""
	inline := false
	for _, p := range parts {
		switch p.key {
		case "size", "image", "pool", "format":
			inline = true
		}
		switch p.key {
		case "size":
			in.SizeBytes, err = quantity.ParseBytes(p.value)
		case "image":
			in.Image = p.value
		case "pool":
			in.Pool = p.value
		case "format":
			in.Format, err = enumFlag[computev1.DiskFormat]("format", p.value, computev1.DiskFormat_name, "DISK_FORMAT_")
		case "volume":
			volume = p.value
		case "name":
			d.Name = p.value
		case "bus":
			d.Bus, err = enumFlag[computev1.DiskBus]("bus", p.value, computev1.DiskBus_name, "DISK_BUS_")
		case "boot-order":
			var n int64
			if n, err = strconv.ParseInt(p.value, 10, 32); err != nil || n < 1 {
				err = fmt.Errorf("boot-order must be a number from 1, not %q", p.value)
			}
			d.BootOrder = int32(n)
		case "serial":
			d.Serial = p.value
		case "read-only":
			d.ReadOnly, err = p.flagged()
		case "discard":
			d.Discard, err = p.flagged()
		}
		if err != nil {
			return nil, err
		}
	}
	switch {
	case volume != "" && inline:
		return nil, fmt.Errorf("volume names an existing disk; size, image, pool and format are for a new one")
	case volume != "":
		d.Source = &computev1.Disk_Volume{Volume: volume}
	case in.SizeBytes == 0 && in.Image == "":
		return nil, fmt.Errorf("neither size, image nor volume is given")
	default:
		d.Source = &computev1.Disk_Inline{Inline: in}
	}
	return d, nil
}

// parseForward reads [tcp:|udp:][ADDRESS:]HOSTPORT-GUESTPORT; an IPv6 address stands in brackets.
func parseForward(text string) (*computev1.PortForward, error) {
	f := &computev1.PortForward{}
	rest := text
	for _, protocol := range []string{"tcp", "udp"} {
		if after, ok := strings.CutPrefix(rest, protocol+":"); ok {
			f.Protocol, rest = protocol, after
			break
		}
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		address := strings.TrimSuffix(strings.TrimPrefix(rest[:i], "["), "]")
		if _, err := netip.ParseAddr(address); err != nil {
			return nil, fmt.Errorf("forward %q: %q is neither tcp, udp nor an IP address", text, rest[:i])
		}
		f.HostAddress, rest = address, rest[i+1:]
	}
	host, guest, ok := strings.Cut(rest, "-")
	if !ok {
		return nil, fmt.Errorf("forward %q is not of the form tcp:HOSTPORT-GUESTPORT", text)
	}
	var err error
	if f.HostPort, err = port(host); err != nil {
		return nil, fmt.Errorf("forward %q: %w", text, err)
	}
	if f.GuestPort, err = port(guest); err != nil {
		return nil, fmt.Errorf("forward %q: %w", text, err)
	}
	return f, nil
}

func port(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port (1-65535)", s)
	}
	return uint32(n), nil
}

func parseDuration(flag, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, failure.Usage("%s: %q is not a length of time", flag, s).WithFix("write for example %s 90s or %s 5m", flag, flag)
	}
	return d, nil
}
