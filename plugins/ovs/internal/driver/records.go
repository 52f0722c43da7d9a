package driver

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/pipeline"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Records are external_ids of the integration bridge: a kind and an id, and what was asked for.
const (
	networkRecord   = "limiquantix-network-"
	interfaceRecord = "limiquantix-interface-"
	rulesRecord     = "limiquantix-rules-"
	setRecord       = "limiquantix-set-"
)

var recordKinds = []string{networkRecord, interfaceRecord, rulesRecord, setRecord}

// encode writes a record: version, numbers given by the driver, the compressed message.
func encode(m proto.Message, index, zone int) string {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "" // cannot be: the message came over the wire
	}
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	_, _ = w.Write(raw)
	_ = w.Close()
	return fmt.Sprintf("1 %d %d %s", index, zone, base64.StdEncoding.EncodeToString(b.Bytes()))
}

// maxRecord bounds what a record may unpack to: no message of the contract is greater.
const maxRecord = 16 << 20

func decode(s string, m proto.Message) (index, zone int, err error) {
	var version int
	var body string
	if _, err := fmt.Sscanf(s, "%d %d %d %s", &version, &index, &zone, &body); err != nil || version != 1 {
		return 0, 0, fmt.Errorf("record of version %d: %w", version, err)
	}
	packed, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		return 0, 0, err
	}
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), maxRecord))
	if err != nil {
		return 0, 0, err
	}
	return index, zone, proto.Unmarshal(raw, m)
}

func (n *network) record() string { return encode(n.req, n.Index, n.Zone) }
func (i *iface) record() string   { return encode(i.req, i.Index, 0) }

func encodeSet(s *ruleset.Set) string {
	return encode(&driverv1.AddressSet{AddressSetId: s.ID, Mark: s.Mark, Generation: s.Generation, Members: s.Strings()}, 0, 0)
}

func newNetwork(req *driverv1.EnsureNetworkRequest, index, zone int) *network {
	return &network{Network: pipeline.Network{ID: req.GetNetworkId(), Spec: req.GetSpec(), Index: index, Zone: zone}, req: req}
}

func newInterface(req *attachRequest, index int) *iface {
	i := &iface{Interface: pipeline.Interface{ID: req.GetInterfaceId(), Spec: req.GetSpec(), Index: index}, req: req}
	if req.GetSpec().GetLimits().GetIngressBitsPerSecond() > 0 {
		i.IngressMeter = uint32(2 * index) //nolint:gosec // small
	}
	if req.GetSpec().GetLimits().GetEgressBitsPerSecond() > 0 {
		i.EgressMeter = uint32(2*index + 1) //nolint:gosec // small
	}
	return i
}

// restore reads the records. What cannot be read is returned as a list of complaints, and does not count.
func (s *state) restore(ids map[string]string) (bad []string) {
	var sets []*ruleset.Set
	var plans []*ruleset.Plan
	for key, value := range ids {
		var err error
		switch {
		case strings.HasPrefix(key, networkRecord):
			m := &driverv1.EnsureNetworkRequest{}
			var index, zone int
			if index, zone, err = decode(value, m); err == nil {
				s.networks[m.GetNetworkId()] = newNetwork(m, index, zone)
			}
		case strings.HasPrefix(key, interfaceRecord):
			m := &attachRequest{}
			var index int
			if index, _, err = decode(value, m); err == nil {
				s.interfaces[m.GetInterfaceId()] = newInterface(m, index)
			}
		case strings.HasPrefix(key, rulesRecord):
			m := &driverv1.RuleSet{}
			if _, _, err = decode(value, m); err == nil {
				var p *ruleset.Plan
				if p, err = ruleset.Compile(m, maxRules); err == nil {
					plans = append(plans, p)
				}
			}
		case strings.HasPrefix(key, setRecord):
			m := &driverv1.AddressSet{}
			if _, _, err = decode(value, m); err == nil {
				members, v := ruleset.ParseMembers("members", m.GetMembers())
				if len(v) > 0 {
					err = fmt.Errorf("%v", v)
				} else {
					sets = append(sets, &ruleset.Set{ID: m.GetAddressSetId(), Generation: m.GetGeneration(), Mark: m.GetMark(), Members: members})
				}
			}
		}
		if err == nil && slices.ContainsFunc(recordKinds, func(p string) bool { return strings.HasPrefix(key, p) }) {
			s.records[key] = value
		}
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", key, err))
		}
	}
	s.registry.Restore(plans, sets)
	return bad
}
