// Package seed makes NoCloud seed media: an ISO 9660 image labelled cidata.
package seed

import (
	"fmt"
	"os"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/disk"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Write makes the medium at path, whole or not at all.
func Write(path string, s *driverv1.CloudInitSeed) error {
	tmp := path + ".new"
	_ = os.Remove(tmp)
	if err := write(tmp, s); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("make cloud-init seed: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("make cloud-init seed: %w", err)
	}
	return nil
}

func write(path string, s *driverv1.CloudInitSeed) error {
	files := map[string][]byte{"/meta-data": s.GetMetaData(), "/user-data": s.GetUserData()}
	if len(s.GetNetworkConfig()) > 0 {
		files["/network-config"] = s.GetNetworkConfig()
	}
	size := int64(1 << 20)
	for _, b := range files {
		size += int64(len(b))
	}
	d, err := diskfs.Create(path, (size+2047)/2048*2048, diskfs.SectorSizeDefault)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	d.LogicalBlocksize = 2048
	fs, err := d.CreateFilesystem(disk.FilesystemSpec{Partition: 0, FSType: filesystem.TypeISO9660, VolumeLabel: "cidata"})
	if err != nil {
		return err
	}
	for name, content := range files {
		f, err := fs.OpenFile(name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return err
		}
		if _, err := f.Write(content); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	iso, ok := fs.(*iso9660.FileSystem)
	if !ok {
		return fmt.Errorf("unexpected file system %T", fs)
	}
	return iso.Finalize(iso9660.FinalizeOptions{RockRidge: true, VolumeIdentifier: "cidata"})
}
