package flow

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Numbers of actions and instructions.
const (
	actOutput, actSetField, actVendor       = 0, 25, 0xffff
	insGoto, insApply, insMeter             = 1, 4, 6
	nicira                                  = 0x2320
	nxMove, nxResubmit, nxOutput, nxClauses = 6, 14, 15, 34
	nxTrack                                 = 35
	portIn                                  = 0xfffffff8
)

// appendActions appends what a flow does, as instructions.
func appendActions(b []byte, text string) ([]byte, error) {
	var acts, tail []byte
	var err error
	for _, part := range split(text) {
		switch {
		case part == "drop":
		case strings.HasPrefix(part, "goto_table:"):
			n, e := strconv.ParseUint(part[len("goto_table:"):], 10, 8)
			tail, err = append(tail, 0, insGoto, 0, 8, byte(n), 0, 0, 0), e
		case strings.HasPrefix(part, "meter:"):
			n, e := strconv.ParseUint(part[len("meter:"):], 10, 32)
			tail, err = binary.BigEndian.AppendUint32(append(tail, 0, insMeter, 0, 8), uint32(n)), e
		default:
			acts, err = appendAction(acts, part)
		}
		if err != nil {
			return nil, fmt.Errorf("action %q: %w", part, err)
		}
	}
	if len(acts) > 0 {
		b = append(b, 0, insApply)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(acts))) //nolint:gosec // checked by the caller
		b = append(append(b, 0, 0, 0, 0), acts...)
	}
	return append(b, tail...), nil
}

// split cuts actions at commas that are not in parentheses.
func split(text string) (parts []string) {
	depth, start := 0, 0
	for i := range text {
		switch text[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 {
				parts, start = append(parts, text[start:i]), i+1
			}
		}
	}
	return append(parts, text[start:])
}

// appendAction appends one action.
func appendAction(b []byte, text string) ([]byte, error) {
	start := len(b)
	var err error
	name, rest, _ := strings.Cut(text, ":")
	switch {
	case text == "IN_PORT":
		b = append(b, 0, actOutput, 0, 16)
		b = append(binary.BigEndian.AppendUint32(b, portIn), make([]byte, 8)...)
	case name == "set_field":
		value, to, _ := cutLast(rest, "->")
		f, ok := fields[to]
		if !ok {
			return nil, fmt.Errorf("field %q is unknown", to)
		}
		if b, err = f.append(append(b, 0, actSetField, 0, 0), value); err != nil {
			return nil, err
		}
	case name == "move":
		from, to, _ := strings.Cut(rest, "->")
		src, srcAt, n, err := part(from)
		if err != nil {
			return nil, err
		}
		dst, dstAt, _, err := part(to)
		if err != nil {
			return nil, err
		}
		b = vendor(b, nxMove)
		for _, v := range []int{n, srcAt, dstAt} {
			b = binary.BigEndian.AppendUint16(b, uint16(v)) //nolint:gosec // small
		}
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, src.header()), dst.header())
	case name == "output":
		src, at, n, err := part(rest)
		if err != nil {
			return nil, err
		}
		b = binary.BigEndian.AppendUint16(vendor(b, nxOutput), uint16(at<<6|n-1)) //nolint:gosec // small
		b = append(binary.BigEndian.AppendUint32(b, src.header()), 0xff, 0xff, 0, 0, 0, 0, 0, 0)
	case strings.HasPrefix(text, "resubmit(,"):
		n, err := strconv.ParseUint(strings.TrimSuffix(text[len("resubmit(,"):], ")"), 10, 8)
		if err != nil {
			return nil, err
		}
		b = append(vendor(b, nxResubmit), 0xff, 0xf8, byte(n), 0, 0, 0)
	case strings.HasPrefix(text, "conjunction("):
		var id uint32
		var k, n uint8
		if _, err := fmt.Sscanf(text, "conjunction(%d,%d/%d)", &id, &k, &n); err != nil {
			return nil, err
		}
		b = binary.BigEndian.AppendUint32(append(vendor(b, nxClauses), k-1, n), id)
	case strings.HasPrefix(text, "ct("):
		if b, err = track(b, strings.TrimSuffix(text[len("ct("):], ")")); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("it is unknown")
	}
	b = pad(b, start)
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start)) //nolint:gosec // small
	return b, nil
}

// vendor begins an action of Open vSwitch's own.
func vendor(b []byte, subtype uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(append(b, 0xff, 0xff, 0, 0), nicira), subtype)
}

// track is a packet's way through connection tracking.
func track(b []byte, args string) ([]byte, error) {
	var flags uint16
	var zone uint32
	var bits uint16
	table := uint8(0xff)
	for arg := range strings.SplitSeq(args, ",") {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "commit":
			flags |= 1
		case "table":
			n, err := strconv.ParseUint(value, 10, 8)
			if err != nil {
				return nil, err
			}
			table = uint8(n)
		case "zone":
			f, at, n, err := part(value)
			if err != nil {
				return nil, err
			}
			zone, bits = f.header(), uint16(at<<6|n-1) //nolint:gosec // small
		default:
			return nil, fmt.Errorf("%q is unknown", arg)
		}
	}
	b = binary.BigEndian.AppendUint16(vendor(b, nxTrack), flags)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(b, zone), bits)
	return append(b, table, 0, 0, 0, 0, 0), nil
}

// part reads a field with the bits meant, like NXM_NX_REG0[0..15] or, for all of it, NXM_NX_REG5[].
func part(text string) (f field, at, n int, err error) {
	name, bits, ok := strings.Cut(strings.TrimSuffix(text, "]"), "[")
	f, known := fields[name]
	if !ok || !known {
		return f, 0, 0, fmt.Errorf("%q is no field with bits", text)
	}
	if bits == "" {
		return f, 0, 8 * f.size, nil
	}
	last := 0
	if _, err := fmt.Sscanf(bits, "%d..%d", &at, &last); err != nil || last < at || last >= 8*f.size {
		return f, 0, 0, fmt.Errorf("bits %q", bits)
	}
	return f, at, last - at + 1, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
