// Package vswitch speaks with Open vSwitch's database: one connection at a time, a copy of the tables that matter here, and the few transactions that the driver needs.
package vswitch

// Root is the row of Open_vSwitch.
type Root struct {
	UUID          string   `ovsdb:"_uuid"`
	Bridges       []string `ovsdb:"bridges"`
	NextConfig    int      `ovsdb:"next_cfg"`
	CurrentConfig int      `ovsdb:"cur_cfg"`
	Datapaths     []string `ovsdb:"datapath_types"`
	Version       *string  `ovsdb:"ovs_version"`
}

// Bridge is a row of Bridge.
type Bridge struct {
	UUID        string            `ovsdb:"_uuid"`
	Name        string            `ovsdb:"name"`
	Datapath    string            `ovsdb:"datapath_type"`
	FailMode    *string           `ovsdb:"fail_mode"`
	Protocols   []string          `ovsdb:"protocols"`
	Controller  []string          `ovsdb:"controller"`
	Ports       []string          `ovsdb:"ports"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
	OtherConfig map[string]string `ovsdb:"other_config"`
}

// Port is a row of Port.
type Port struct {
	UUID        string            `ovsdb:"_uuid"`
	Name        string            `ovsdb:"name"`
	Interfaces  []string          `ovsdb:"interfaces"`
	Tag         *int              `ovsdb:"tag"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
}

// Interface is a row of Interface.
type Interface struct {
	UUID        string            `ovsdb:"_uuid"`
	Name        string            `ovsdb:"name"`
	Type        string            `ovsdb:"type"`
	Options     map[string]string `ovsdb:"options"`
	OfPort      *int              `ovsdb:"ofport"`
	LinkState   *string           `ovsdb:"link_state"`
	Error       *string           `ovsdb:"error"`
	MAC         *string           `ovsdb:"mac"`
	MTURequest  *int              `ovsdb:"mtu_request"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
}
