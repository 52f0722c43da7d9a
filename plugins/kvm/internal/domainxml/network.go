package domainxml

import (
	"crypto/sha256"
	"fmt"
	"net"

	"libvirt.org/go/libvirtxml"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// rbd fills in a disk that the hypervisor opens in a Ceph cluster by itself. Its key is in libvirt's store of secrets, and named here.
func rbd(x *libvirtxml.DomainDisk, s *driverv1.RbdSource, domain, disk string) error {
	name := s.GetPool() + "/"
	if s.GetNamespace() != "" {
		name += s.GetNamespace() + "/"
	}
	// Without a file of its own librbd would read /etc/ceph/ceph.conf, which may be another cluster's.
	src := &libvirtxml.DomainDiskSourceNetwork{Protocol: "rbd", Name: name + s.GetImage(), Config: &libvirtxml.DomainDiskSourceNetworkConfig{File: "/dev/null"}}
	for _, m := range s.GetMonitors() {
		host, port, err := net.SplitHostPort(m)
		if err != nil {
			return sourceError(fmt.Sprintf("monitor %q is not host:port", m))
		}
		src.Hosts = append(src.Hosts, libvirtxml.DomainDiskSourceHost{Name: host, Port: port})
	}
	x.Source = &libvirtxml.DomainDiskSource{Network: src}
	x.Driver.Cache = "writeback" // librbd's, which heeds the guest's flushes
	if s.GetKey() != "" {
		id := SecretID(domain, disk)
		x.Auth = &libvirtxml.DomainDiskAuth{Username: s.GetUser(), Secret: &libvirtxml.DomainDiskSecret{Type: "ceph", UUID: uuidText(id)}}
	}
	return nil
}

// nbd fills in a disk that is an export of an NBD server.
func nbd(x *libvirtxml.DomainDisk, s *driverv1.NbdSource) error {
	src := &libvirtxml.DomainDiskSourceNetwork{Protocol: "nbd", Name: s.GetExportName()}
	if path := s.GetSocketPath(); path != "" {
		src.Hosts = []libvirtxml.DomainDiskSourceHost{{Transport: "unix", Socket: path}}
	} else {
		host, port, err := net.SplitHostPort(s.GetAddress())
		if err != nil {
			return sourceError(fmt.Sprintf("address %q is not host:port", s.GetAddress()))
		}
		src.Hosts = []libvirtxml.DomainDiskSourceHost{{Name: host, Port: port}}
	}
	x.Source = &libvirtxml.DomainDiskSource{Network: src}
	return nil
}

// SecretID is the id of the secret that holds the key of a domain's disk: it follows from both.
func SecretID(domain, disk string) [16]byte {
	sum := sha256.Sum256([]byte(domain + "/secret/" + disk))
	var id [16]byte
	copy(id[:], sum[:])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return id
}

func uuidText(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// SecretUsage is what libvirt is told that the secret of a domain's disk is for; it begins alike for all disks of a domain.
func SecretUsage(domain, disk string) string { return "limiquantix/" + domain + "/" + disk }

// Secret describes the secret of a domain's disk to libvirt. libvirt keeps it over restarts, readable by root alone, and gives its value to nobody.
func Secret(domain, disk string) (string, error) {
	x := libvirtxml.Secret{
		Ephemeral: "no", Private: "yes", UUID: uuidText(SecretID(domain, disk)), Description: "key of disk " + disk + " of domain " + domain,
		Usage: &libvirtxml.SecretUsage{Type: "ceph", Name: SecretUsage(domain, disk)},
	}
	return x.Marshal()
}
