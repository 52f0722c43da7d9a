package monitor

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links calls f when devices whose names have the prefix, or what belongs to them, change, with the names of devices that appeared; until ctx ends. Our own changes are told like others'.
func Links(ctx context.Context, prefix string, f func(appeared []string)) error {
	s, err := subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEIGH)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, s.Close)()
	names := map[int]string{}
	if links, err := netlink.LinkList(); err == nil {
		for _, l := range links {
			names[l.Attrs().Index] = l.Attrs().Name
		}
	}
	for {
		msgs, _, err := s.Receive()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is how it ends
		}
		if errors.Is(err, unix.ENOBUFS) {
			f(nil)
			continue
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return err
		}
		var appeared []string
		concerned := false
		for _, m := range msgs {
			name, new := concerns(m, names, prefix)
			concerned = concerned || name != ""
			if new {
				appeared = append(appeared, name)
			}
		}
		if concerned {
			f(appeared)
		}
	}
}

// concerns is the name of the device of ours that a message is about, and whether the device is new.
func concerns(m syscall.NetlinkMessage, names map[int]string, prefix string) (name string, appeared bool) {
	ours := func(index int) string {
		if n := names[index]; strings.HasPrefix(n, prefix) {
			return n
		}
		return ""
	}
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, err := netlink.LinkDeserialize(&unix.NlMsghdr{Len: m.Header.Len, Type: m.Header.Type, Flags: m.Header.Flags, Seq: m.Header.Seq, Pid: m.Header.Pid}, m.Data)
		if err != nil {
			return "", false
		}
		a := l.Attrs()
		_, known := names[a.Index]
		if m.Header.Type == unix.RTM_NEWLINK {
			names[a.Index] = a.Name
		} else if len(m.Data) > 0 && m.Data[0] != unix.AF_BRIDGE {
			defer delete(names, a.Index)
		}
		return ours(a.Index), !known && ours(a.Index) != ""
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if a := netlinkIndex(m.Data, 4); a > 0 {
			return ours(a), false
		}
	case unix.RTM_DELNEIGH, unix.RTM_NEWNEIGH:
		// Learnt entries come and go; those that we made are permanent.
		if len(m.Data) >= 12 && (m.Header.Type == unix.RTM_DELNEIGH || m.Data[0] == unix.AF_BRIDGE) {
			if n := ours(netlinkIndex(m.Data, 4)); strings.HasPrefix(n, prefix+"v") || n != "" && m.Data[8]&netlink.NUD_PERMANENT != 0 {
				return n, false
			}
		}
	case unix.RTM_DELROUTE, unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return prefix, false // few, and cheap to look after
	}
	return "", false
}

func netlinkIndex(b []byte, at int) int {
	if len(b) < at+4 {
		return 0
	}
	return int(nativeUint32(b[at:]))
}
