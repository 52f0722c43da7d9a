package flow

import (
	"encoding/binary"
	"math"
)

// Change is a flow to put in place of what has its key, or, without actions, a key whose flow goes away.
type Change struct {
	Key     Key
	Cookie  uint64
	Actions string
}

const (
	modAdd          = 0
	modDeleteStrict = 4
)

// encode is the change as the body of a message.
func (c Change) encode() ([]byte, error) {
	command := uint8(modAdd)
	if c.Actions == "" {
		command = modDeleteStrict
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 256), c.Cookie)
	b = binary.BigEndian.AppendUint64(b, 0)         // any cookie
	b = append(b, c.Key.Table, command, 0, 0, 0, 0) // no timeouts
	b = binary.BigEndian.AppendUint16(b, c.Key.Priority)
	for range 3 { // no buffer, any port, any group
		b = binary.BigEndian.AppendUint32(b, math.MaxUint32)
	}
	b, err := appendMatch(append(b, 0, 0, 0, 0), c.Key.Match)
	if err != nil || c.Actions == "" {
		return b, err
	}
	return appendActions(b, c.Actions)
}
