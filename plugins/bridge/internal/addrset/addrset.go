// Package addrset keeps address sets as ipsets, two each: one for IPv4, one for IPv6. One member more or less is one element; more at once is a new set, exchanged for
// the old in one step.
package addrset

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
)

// Prefix of the names of our ipsets.
const Prefix = "lq"

// Kernel is the ipsets of the network namespace.
type Kernel struct{}

// half is one family's part of an address set.
type half struct {
	name    string
	v6      bool
	members []netip.Prefix // in order
}

// halves of a set, members normalised: an ipset knows no 0.0.0.0/0, but its two halves.
func halves(s *ruleset.Set) [2]half {
	h := [2]half{{name: name.Set4(s.ID)}, {name: name.Set6(s.ID), v6: true}}
	for i := range h {
		for _, p := range s.Members[i] {
			if p.Bits() > 0 {
				h[i].members = append(h[i].members, p)
				continue
			}
			b := p.Addr().AsSlice()
			b[0] = 0x80
			upper, _ := netip.AddrFromSlice(b)
			h[i].members = append(h[i].members, netip.PrefixFrom(p.Addr(), 1), netip.PrefixFrom(upper, 1))
		}
		slices.SortFunc(h[i].members, compare)
		h[i].members = slices.Compact(h[i].members)
	}
	return h
}

func compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// Add makes the sets that next has and old has not, and changes those that differ.
func (k *Kernel) Add(old, next *record.State) error {
	for id, s := range next.Members {
		have := old.Members[id]
		if have == s {
			continue
		}
		var before [2]half
		if have != nil {
			before = halves(have)
		}
		for i, h := range halves(s) {
			if err := k.change(before[i], h, have != nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove takes away the sets that next has no more.
func (k *Kernel) Remove(old, next *record.State) error {
	for id, s := range old.Members {
		if _, kept := next.Members[id]; kept {
			continue
		}
		for _, h := range halves(s) {
			if err := netlink.IpsetDestroy(h.name); err != nil && !absent(err) {
				return fmt.Errorf("destroy %s: %w", h.name, err)
			}
		}
	}
	return nil
}

func absent(err error) bool {
	return errors.Is(err, unix.ENOENT) || strings.Contains(err.Error(), "no such file") || strings.Contains(err.Error(), "does not exist")
}

func (k *Kernel) change(have, want half, there bool) error {
	if !there {
		return k.replace(want)
	}
	add, del := missing(want.members, have.members), missing(have.members, want.members)
	switch {
	case len(add)+len(del) == 0:
		return nil
	case len(add) == 1 && len(del) == 0:
		return netlink.IpsetAdd(want.name, entry(add[0], true))
	case len(add) == 0 && len(del) == 1:
		return netlink.IpsetDel(want.name, entry(del[0], true))
	}
	return k.replace(want)
}

func entry(p netip.Prefix, replace bool) *netlink.IPSetEntry {
	return &netlink.IPSetEntry{IP: net.IP(p.Addr().AsSlice()), CIDR: uint8(p.Bits()), Replace: replace} //nolint:gosec // at most 128
}

// missing are the members of a that b lacks; both are in order.
func missing(a, b []netip.Prefix) (m []netip.Prefix) {
	for _, p := range a {
		if _, there := slices.BinarySearchFunc(b, p, compare); !there {
			m = append(m, p)
		}
	}
	return m
}

// replace makes a set whole beside the one in use, and exchanges them in one step.
func (k *Kernel) replace(h half) error {
	family := "inet"
	if h.v6 {
		family = "inet6"
	}
	var b bytes.Buffer
	kind := "hash:net family " + family + " maxelem 1048576"
	next := h.name + "-n"
	fmt.Fprintf(&b, "create %s %s\ncreate %s %s\nflush %s\n", h.name, kind, next, kind, next)
	for _, p := range h.members {
		fmt.Fprintf(&b, "add %s %s\n", next, p)
	}
	fmt.Fprintf(&b, "swap %s %s\ndestroy %s\n", next, h.name, next)
	cmd := exec.Command("ipset", "-exist", "restore")
	cmd.Stdin = &b
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ipset restore %s: %w: %.300s", h.name, err, bytes.TrimSpace(out))
	}
	return nil
}

// read is a set's members as the kernel has them, in order; not there: false.
func (k *Kernel) read(h half) (members []netip.Prefix, there bool, err error) {
	out, err := exec.Command("ipset", "save", h.name).CombinedOutput()
	if err != nil {
		if bytes.Contains(out, []byte("does not exist")) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("%w: %.300s", err, bytes.TrimSpace(out))
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "add" {
			p, err := netspec.ParseAddressOrCIDR(f[2])
			if err != nil {
				return nil, true, err
			}
			members = append(members, p)
		}
	}
	slices.SortFunc(members, compare)
	return members, true, nil
}

// Differs says how a set in the kernel differs from s; empty = not at all.
func (k *Kernel) Differs(s *ruleset.Set) (string, error) {
	for _, h := range halves(s) {
		have, there, err := k.read(h)
		switch {
		case err != nil:
			return "", fmt.Errorf("list %s: %w", h.name, err)
		case !there:
			return "set " + h.name + " missing", nil
		case len(missing(h.members, have)) > 0:
			return "set " + h.name + " lacks " + missing(h.members, have)[0].String(), nil
		case len(missing(have, h.members)) > 0:
			return "set " + h.name + " has " + missing(have, h.members)[0].String() + ", which nobody asked for", nil
		}
	}
	return "", nil
}

// Restore makes all sets of a state as they shall be, whatever is there, and removes ours that it does not have.
func (k *Kernel) Restore(s *record.State) error {
	known := map[string]bool{}
	for _, set := range s.Members {
		differs, err := k.Differs(set)
		if err != nil {
			return err
		}
		for _, h := range halves(set) {
			known[h.name] = true
			if differs == "" {
				continue
			}
			if err := k.replace(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// Strays are names of ipsets of ours that no set of the state has.
func (k *Kernel) Strays(s *record.State) (names []string) {
	known := map[string]bool{}
	for _, set := range s.Members {
		for _, h := range halves(set) {
			known[h.name] = true
		}
	}
	out, err := exec.Command("ipset", "list", "-n").Output()
	if err != nil {
		return nil
	}
	for n := range strings.FieldsSeq(string(out)) {
		if (strings.HasPrefix(n, Prefix+"4-") || strings.HasPrefix(n, Prefix+"6-")) && !known[n] {
			names = append(names, n)
		}
	}
	return names
}

// Destroy removes an ipset that Strays named.
func (k *Kernel) Destroy(name string) error { return netlink.IpsetDestroy(name) }

// Changed are the ids of sets that the kernel has not, or with another number of members: what can be told without reading them all.
func (k *Kernel) Changed(s *record.State) (ids []string) {
	if len(s.Members) == 0 {
		return nil
	}
	out, err := exec.Command("ipset", "list", "-t").Output()
	if err != nil {
		return nil
	}
	entries, set := map[string]string{}, ""
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "Name":
			set = value
		case "Number of entries":
			entries[set] = value
		}
	}
	for id, x := range s.Members {
		for _, h := range halves(x) {
			if entries[h.name] != fmt.Sprint(len(h.members)) {
				ids = append(ids, id)
				break
			}
		}
	}
	return ids
}
