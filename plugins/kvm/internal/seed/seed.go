// Package seed makes NoCloud seed media: an ISO 9660 image labelled cidata. Equal documents make equal images.
package seed

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	label = "cidata"
	block = 2048
)

// epoch is the time that all in the image carries.
var epoch = time.Unix(0, 0).UTC()

// Write makes the medium at path, whole or not at all. Only its owner can read it: user-data may hold passwords.
func Write(path string, s *driverv1.CloudInitSeed) error {
	tmp, work := path+".new", path+".work"
	defer func() { _ = os.RemoveAll(work) }()
	for _, old := range []string{tmp, work} { // of a plugin that was killed
		if err := os.RemoveAll(old); err != nil {
			return fmt.Errorf("make cloud-init seed: %w", err)
		}
	}
	if err := write(tmp, work, s); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("make cloud-init seed: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("make cloud-init seed: %w", err)
	}
	return nil
}

func write(path, work string, s *driverv1.CloudInitSeed) error {
	documents := map[string][]byte{"meta-data": s.GetMetaData(), "user-data": s.GetUserData()}
	if len(s.GetNetworkConfig()) > 0 {
		documents["network-config"] = s.GetNetworkConfig()
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	for name, content := range documents {
		name = filepath.Join(work, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return err
		}
		if err := os.Chtimes(name, epoch, epoch); err != nil {
			return err
		}
	}
	if err := os.Chtimes(work, epoch, epoch); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	iso, err := iso9660.Create(file.New(f, false), 0, 0, block, work)
	if err != nil {
		return err
	}
	if err := iso.Finalize(iso9660.FinalizeOptions{RockRidge: true, VolumeIdentifier: label}); err != nil {
		return err
	}
	return timeless(f)
}
