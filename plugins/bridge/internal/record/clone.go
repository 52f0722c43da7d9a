package record

import (
	"maps"
	"slices"
)

// Clone is a state that can be changed without changing s.
func (s *State) Clone() *State {
	return &State{maps.Clone(s.Networks), maps.Clone(s.Interfaces), maps.Clone(s.RuleSets), maps.Clone(s.Sets), maps.Clone(s.Plans), maps.Clone(s.Members)}
}

// IDs are the keys of one of a state's maps, in order.
func IDs[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// InterfacesOf are the ids of the interfaces in a network, in order.
func (s *State) InterfacesOf(network string) (ids []string) {
	for _, id := range IDs(s.Interfaces) {
		if s.Interfaces[id].GetSpec().GetNetworkId() == network {
			ids = append(ids, id)
		}
	}
	return ids
}

// FreeNumber is the least number that no network has; 0 when there is none.
func (s *State) FreeNumber() uint32 {
	used := map[uint32]bool{}
	for _, n := range s.Networks {
		used[n.Number] = true
	}
	for i := uint32(1); i < 4096; i++ {
		if !used[i] {
			return i
		}
	}
	return 0
}
