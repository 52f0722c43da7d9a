package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// undefineAll takes with the definition all that libvirt keeps for it.
const undefineAll = libvirt.DomainUndefineManagedSave | libvirt.DomainUndefineSnapshotsMetadata | libvirt.DomainUndefineNvram | libvirt.DomainUndefineCheckpointsMetadata

// DeleteDomain removes a domain, and then the driver's files of it: a crash in between leaves files that a repetition removes.
func (d *Driver) DeleteDomain(ctx context.Context, req *driverv1.DeleteDomainRequest) (*driverv1.DeleteDomainResponse, error) {
	id := req.GetDomainId()
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, err := s.find(ctx, id)
	sockets := []string{s.files(id).ConsoleSocket}
	switch {
	case err == nil:
		sockets = append(sockets, have.defined.ConsoleSocket)
		if err := s.undefine(ctx, have); err != nil {
			return nil, err
		}
	case !fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND):
		return nil, err
	}
	if err := s.dropAllSecrets(ctx, id); err != nil {
		return nil, err
	}
	d.consoles.Drop(id)
	d.frozen.forget(id)
	if err := s.removeFiles(id, sockets); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "remove files of domain %s: %w", id, err)
	}
	return &driverv1.DeleteDomainResponse{}, nil
}

func (s setting) undefine(ctx context.Context, have *domain) error {
	if running(have.GetState()) {
		if err := s.destroy(ctx, have); err != nil {
			return err
		}
	}
	_, err := connection.Alone(ctx, s.conn, "undefine domain "+have.GetDomainId(), func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainUndefineFlags(have.lv, undefineAll)
	})
	if fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		return nil
	}
	return err
}

// removeFiles removes what the driver made. A definition may have been changed by hand: nothing outside of the driver's own folders is removed.
func (s setting) removeFiles(id string, sockets []string) error {
	for _, socket := range sockets {
		if filepath.Dir(socket) != filepath.Clean(s.host.GetRuntimeDirectory()) {
			continue
		}
		if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(s.files(id).Dir)
}
