package state

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// packedFrom is how many rules a group must have for them to be stored compressed: 10,000 of them are near a megabyte of text that repeats itself, in every revision.
const packedFrom = 100

// PutSecurityGroup writes a group's record. rec is left as it was.
func (w *Writer) PutSecurityGroup(rec *statev1.SecurityGroupRecord) {
	key := Key(KindSecurityGroup, rec.GetSecurityGroup().GetMeta().GetId())
	rules := rec.GetSecurityGroup().GetSpec().GetRules()
	if len(rules) < packedFrom {
		rec.PackedRules = nil
		w.Put(key, rec)
		return
	}
	packed, err := Compress(&networkv1.SecurityGroupSpec{Rules: rules})
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("encode %s: %w", key, err)
	}
	rec.SecurityGroup.Spec.Rules, rec.PackedRules = nil, packed
	w.Put(key, rec)
	rec.SecurityGroup.Spec.Rules, rec.PackedRules = rules, nil
}

func unpackSecurityGroup(rec *statev1.SecurityGroupRecord) error {
	if len(rec.GetPackedRules()) == 0 {
		return nil
	}
	var spec networkv1.SecurityGroupSpec
	if err := Decompress(rec.GetPackedRules(), &spec); err != nil {
		return err
	}
	rec.SecurityGroup.Spec.Rules, rec.PackedRules = spec.GetRules(), nil
	return nil
}

// Compress encodes a message and compresses it.
func Compress(m proto.Message) ([]byte, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Decompress is the way back.
func Decompress(b []byte, m proto.Message) error {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	return proto.Unmarshal(plain, m)
}

// GroupPorts are the ports that have a group, ordered by id.
func (c *Cache) GroupPorts(groupID string) []*Row {
	return c.Find(Query{Kind: KindPort, Ref: RefSecurityGroup(groupID)}).Rows
}

// GroupMembers are the ports that have a group, with what of them its state depends on. Each is decoded when it is asked for.
func (c *Cache) GroupMembers(groupID string) iter.Seq[domain.GroupMember] {
	return func(yield func(domain.GroupMember) bool) {
		for _, row := range c.GroupPorts(groupID) {
			if !yield(c.groupMember(groupID, row)) {
				return
			}
		}
	}
}

// GroupMember is a port as a member of a group; false when it is none.
func (c *Cache) GroupMember(groupID, portID string) (domain.GroupMember, bool) {
	row := c.Row(KindPort, portID)
	if row == nil || !slices.Contains(row.Refs, RefSecurityGroup(groupID)) {
		return domain.GroupMember{}, false
	}
	return c.groupMember(groupID, row), true
}

func (c *Cache) groupMember(groupID string, row *Row) domain.GroupMember {
	m := domain.MemberOf(row.Port().GetPort(), groupID)
	m.NodeName = m.NodeID
	if node := c.Row(KindNode, m.NodeID); node != nil {
		m.NodeName = node.Name
		m.Reports = !node.Deleting && computev1.NodePhase(node.Phase) != computev1.NodePhase_NODE_PHASE_UNKNOWN
	}
	return m
}
