package domainxml

import (
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
)

// Facts are what the driver needs to know of a domain's XML.
type Facts struct {
	Type    string // "kvm" or "qemu"
	Name    string // in libvirt
	Machine string // with its version, for example "pc-q35-7.2"

	Mark *mark.Mark // nil = foreign

	ConsoleSocket, ConsoleLog, VNCSocket string // "" = none
	AgentConnected                       bool   // of a running domain

	Disks      []Device
	Interfaces []Device        // not the user-mode ones
	Targets    map[string]bool // of all disks, also those that are not ours
	SCSI       bool            // has a SCSI controller
	Kernel     bool            // boots from a kernel of its own, from no disk
	VCPUs      int             // the most it can have
}

// Device is a disk or interface of ours.
type Device struct {
	ID     string
	Target string // "vda", or the tap on the node
	LinkUp bool   // of an interface
	MAC    string // of an interface
	Source string // of a disk: path of its file or block device
	Secret bool   // of a disk: libvirt keeps a key for it
	// Protocol of a disk that QEMU reaches over a network, "rbd" or "nbd".
	Protocol string
}

// document is the part of libvirt's XML that is read; all else in it is skipped, which is quicker and takes less memory than the whole.
type document struct {
	XMLName xml.Name `xml:"domain"`
	Type    string   `xml:"type,attr"`
	Name    string   `xml:"name"`
	VCPUs   int      `xml:"vcpu"`
	OS      struct {
		Kernel string `xml:"kernel"`
		Type   struct {
			Machine string `xml:"machine,attr"`
		} `xml:"type"`
	} `xml:"os"`
	Metadata struct {
		Mark *mark.Mark `xml:"https://limiquantix.io/xmlns/mark/1 mark"`
	} `xml:"metadata"`
	Devices struct {
		Disks      []device `xml:"disk"`
		Interfaces []device `xml:"interface"`
		Serials    []struct {
			Source struct {
				Path string `xml:"path,attr"`
			} `xml:"source"`
			Log struct {
				File string `xml:"file,attr"`
			} `xml:"log"`
		} `xml:"serial"`
		Channels []struct {
			Target struct {
				Name  string `xml:"name,attr"`
				State string `xml:"state,attr"`
			} `xml:"target"`
		} `xml:"channel"`
		Graphics []struct {
			Listen []struct {
				Socket string `xml:"socket,attr"`
			} `xml:"listen"`
		} `xml:"graphics"`
		Controllers []struct {
			Type string `xml:"type,attr"`
		} `xml:"controller"`
	} `xml:"devices"`
}

type device struct {
	MAC struct {
		Address string `xml:"address,attr"`
	} `xml:"mac"`
	Target struct {
		Dev string `xml:"dev,attr"`
	} `xml:"target"`
	Alias struct {
		Name string `xml:"name,attr"`
	} `xml:"alias"`
	Link struct {
		State string `xml:"state,attr"`
	} `xml:"link"`
	Source struct {
		File     string `xml:"file,attr"`
		Dev      string `xml:"dev,attr"`
		Protocol string `xml:"protocol,attr"`
		Auth     *struct {
			Username string `xml:"username,attr"`
		} `xml:"auth"`
	} `xml:"source"`
	Auth *struct {
		Username string `xml:"username,attr"`
	} `xml:"auth"`
}

// Read reads a domain's XML.
func Read(text string) (*Facts, error) {
	var d document
	if err := xml.Unmarshal([]byte(text), &d); err != nil {
		return nil, fmt.Errorf("read domain XML: %w", err)
	}
	f := &Facts{Type: d.Type, Name: d.Name, Machine: d.OS.Type.Machine, Kernel: d.OS.Kernel != "", VCPUs: d.VCPUs, Mark: d.Metadata.Mark, Disks: ours(d.Devices.Disks), Interfaces: ours(d.Devices.Interfaces)}
	f.Targets = map[string]bool{}
	for _, disk := range d.Devices.Disks {
		f.Targets[disk.Target.Dev] = true
	}
	for _, s := range d.Devices.Serials {
		if f.ConsoleSocket == "" {
			f.ConsoleSocket, f.ConsoleLog = s.Source.Path, s.Log.File
		}
	}
	for _, c := range d.Devices.Channels {
		f.AgentConnected = f.AgentConnected || c.Target.Name == agentChannel && c.Target.State == "connected"
	}
	for _, g := range d.Devices.Graphics {
		for _, l := range g.Listen {
			f.VNCSocket = firstOf(f.VNCSocket, l.Socket)
		}
	}
	for _, c := range d.Devices.Controllers {
		f.SCSI = f.SCSI || c.Type == "scsi"
	}
	return f, nil
}

func ours(list []device) (out []Device) {
	for _, d := range list {
		if id, ok := strings.CutPrefix(d.Alias.Name, aliasPrefix); ok {
			out = append(out, Device{
				ID: id, Target: d.Target.Dev, LinkUp: d.Link.State != "down", MAC: d.MAC.Address,
				Source: firstOf(d.Source.File, d.Source.Dev), Secret: d.Auth != nil || d.Source.Auth != nil, Protocol: d.Source.Protocol,
			})
		}
	}
	return out
}

// Disk and Interface find a device by its id.
func (f *Facts) Disk(id string) (Device, bool) { return find(f.Disks, id) }

// Interface finds an interface by its id.
func (f *Facts) Interface(id string) (Device, bool) { return find(f.Interfaces, id) }

func find(list []Device, id string) (Device, bool) {
	for _, d := range list {
		if d.ID == id {
			return d, true
		}
	}
	return Device{}, false
}
