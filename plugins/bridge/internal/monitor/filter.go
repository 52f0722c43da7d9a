// Package monitor tells of changes in the kernel as they happen: in the packet filter, with who made them, and in devices, addresses, routes and neighbours.
package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Change is one transaction in the packet filter.
type Change struct {
	PID    int      // who made it, as the kernel numbers processes; 0 = unknown
	Tables []string // in which something of ours was touched
	Lost   bool     // changes were missed
}

// Touches reports whether the change is in a table of that name.
func (c Change) Touches(table string) bool { return slices.Contains(c.Tables, table) }

// Filter calls f with each transaction that touches what touches says is ours, until ctx ends.
func Filter(ctx context.Context, touches func(family byte, table, chain string, deletes bool) bool, f func(Change)) error {
	s, err := subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, s.Close)()
	c := Change{}
	for {
		msgs, _, err := s.Receive()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is how it ends
		}
		if errors.Is(err, unix.ENOBUFS) {
			f(Change{Lost: true})
			c = Change{}
			continue
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return err
		}
		for _, m := range msgs {
			if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
				continue
			}
			if m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
				if len(c.Tables) > 0 {
					c.PID = int(uint32At(m.Data[4:], unix.NFTA_GEN_PROC_PID))
					f(c)
				}
				c = Change{}
				continue
			}
			if table := touched(m, touches); table != "" && !c.Touches(table) {
				c.Tables = append(c.Tables, table)
			}
		}
	}
}

const receiveBuffer = 32 << 20 // a transaction of 10,000 rules is as many messages; what is lost shuts for a moment

func subscribe(protocol int, groups ...uint) (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(protocol, groups...)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(s.GetFd(), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) // what is lost is told
	return s, nil
}

// touched names the table that a message is about, if that is about something of ours.
func touched(m syscall.NetlinkMessage, touches func(byte, string, string, bool) bool) string {
	deletes, table, chain := false, text(m.Data[4:], 1), ""
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_DELTABLE:
		deletes = true
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chain, deletes = text(m.Data[4:], unix.NFTA_CHAIN_NAME), m.Header.Type&0xff == unix.NFT_MSG_DELCHAIN
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain, deletes = text(m.Data[4:], unix.NFTA_RULE_CHAIN), m.Header.Type&0xff == unix.NFT_MSG_DELRULE
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELOBJ:
		chain = "set"
	default:
		return ""
	}
	if touches(m.Data[0], table, chain, deletes) {
		return table
	}
	return ""
}

func attribute(b []byte, kind uint16) []byte {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return b[unix.SizeofNlAttr:size]
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

func text(b []byte, kind uint16) string { return strings.TrimRight(string(attribute(b, kind)), "\x00") }

func uint32At(b []byte, kind uint16) uint32 {
	if a := attribute(b, kind); len(a) == 4 {
		return binary.BigEndian.Uint32(a)
	}
	return 0
}

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
