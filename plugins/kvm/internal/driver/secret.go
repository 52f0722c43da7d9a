package driver

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// noSecret is libvirt's code for a secret that is not there.
const noSecret = 66

// keepSecrets puts the keys of a domain's disks into libvirt's own store of secrets, from where nothing but libvirt reads them. Each disk has a secret of its own, which
// goes with it. Issued again it sets the key that is given now.
func (s setting) keepSecrets(ctx context.Context, domain string, disks ...*driverv1.DomainDisk) error {
	for _, disk := range disks {
		rbd := disk.GetSource().GetRbd()
		if rbd.GetKey() == "" {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(rbd.GetKey())
		if err != nil {
			return fault.Invalid(fault.Violation{Field: "disk.source.rbd.key", Description: "must be base64, as Ceph prints it"})
		}
		text, err := domainxml.Secret(domain, disk.GetDiskId())
		if err != nil {
			return err
		}
		_, err = connection.Alone(ctx, s.conn, "keep the key of disk "+disk.GetDiskId(), func(l *libvirt.Libvirt) (struct{}, error) {
			secret, err := l.SecretDefineXML(text, 0)
			if err == nil {
				err = l.SecretSetValue(secret, key, 0)
			}
			return struct{}{}, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dropSecrets removes the keys of disks; those that have none are fine.
func (s setting) dropSecrets(ctx context.Context, domain string, disks ...string) error {
	if len(disks) == 0 {
		return nil
	}
	_, err := connection.Alone(ctx, s.conn, "remove keys of domain "+domain, func(l *libvirt.Libvirt) (struct{}, error) {
		for _, id := range disks {
			secret, err := l.SecretLookupByUUID(libvirt.UUID(domainxml.SecretID(domain, id)))
			if err == nil {
				err = l.SecretUndefine(secret)
			}
			if err != nil && !connection.IsCode(err, noSecret) {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	return err
}

// dropAllSecrets removes the keys of all disks of a domain that is gone, also of those that were never attached in the end.
func (s setting) dropAllSecrets(ctx context.Context, domain string) error {
	_, err := connection.Alone(ctx, s.conn, "remove keys of domain "+domain, func(l *libvirt.Libvirt) (struct{}, error) {
		all, _, err := l.ConnectListAllSecrets(1, 0)
		if err != nil {
			return struct{}{}, err
		}
		for _, secret := range all {
			if !strings.HasPrefix(secret.UsageID, domainxml.SecretUsage(domain, "")) {
				continue
			}
			if err := l.SecretUndefine(secret); err != nil && !connection.IsCode(err, noSecret) {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	return err
}

// keyed are the disks of a domain that have a key, whether it runs with them or is defined with them.
func (have *domain) keyed() (ids []string) {
	for _, f := range []*domainxml.Facts{have.live, have.defined} {
		if f == nil {
			continue
		}
		for _, d := range f.Disks {
			if d.Secret {
				ids = append(ids, d.ID)
			}
		}
	}
	return ids
}
