// Package qcow2 reads the header of a qcow2 image and says whether an image from outside is safe to take: no backing file, no external data,
// no encryption, no absurd sizes. It never trusts a length before it has checked it.
//
// Source: QEMU's docs/interop/qcow2.rst.
package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Magic begins every qcow2 file.
const Magic = "QFI\xfb"

// MaxVirtualSize is the largest disk that an image may claim, 64 TiB.
const MaxVirtualSize = 64 << 40

const (
	headerV2 = 72
	headerV3 = 104

	incompatDirty        = 1 << 0
	incompatCorrupt      = 1 << 1
	incompatExternalData = 1 << 2
	incompatCompression  = 1 << 3
	incompatExtendedL2   = 1 << 4
	incompatKnown        = incompatDirty | incompatCorrupt | incompatExternalData | incompatCompression | incompatExtendedL2
)

// Header is the part of a qcow2 header that matters for safety.
type Header struct {
	Version          uint32
	BackingOffset    uint64
	BackingSize      uint32
	ClusterBits      uint32
	VirtualSize      uint64
	CryptMethod      uint32
	L1Entries        uint32
	L1Offset         uint64
	RefcountOffset   uint64
	RefcountClusters uint32
	Incompatible     uint64 // 0 for version 2
}

// ErrNotQcow2 is returned for content that does not begin like a qcow2 image.
var ErrNotQcow2 = errors.New("not a qcow2 image")

// Read reads a header from the beginning of r.
func Read(r io.ReaderAt) (Header, error) {
	var h Header
	buf := make([]byte, headerV3)
	n, err := r.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return h, fmt.Errorf("read qcow2 header: %w", err)
	}
	if n < 4 || string(buf[:4]) != Magic {
		return h, ErrNotQcow2
	}
	if n < headerV2 {
		return h, fmt.Errorf("qcow2 header ends after %d bytes", n)
	}
	be := binary.BigEndian
	h = Header{
		Version: be.Uint32(buf[4:]), BackingOffset: be.Uint64(buf[8:]), BackingSize: be.Uint32(buf[16:]), ClusterBits: be.Uint32(buf[20:]),
		VirtualSize: be.Uint64(buf[24:]), CryptMethod: be.Uint32(buf[32:]), L1Entries: be.Uint32(buf[36:]), L1Offset: be.Uint64(buf[40:]),
		RefcountOffset: be.Uint64(buf[48:]), RefcountClusters: be.Uint32(buf[56:]),
	}
	if h.Version >= 3 {
		if n < headerV3 {
			return h, fmt.Errorf("qcow2 header ends after %d bytes", n)
		}
		h.Incompatible = be.Uint64(buf[72:])
	}
	return h, nil
}

// CheckForeign says why an image from outside is refused; nil = it may be taken. fileSize is the size of the file in bytes.
func (h Header) CheckForeign(fileSize int64) error {
	switch {
	case h.Version != 2 && h.Version != 3:
		return fmt.Errorf("qcow2 version %d is unknown", h.Version)
	case h.BackingOffset != 0 || h.BackingSize != 0:
		return errors.New("the image has a backing file")
	case h.Incompatible&incompatExternalData != 0:
		return errors.New("the image keeps its data in an external file")
	case h.Incompatible&^uint64(incompatKnown) != 0:
		return fmt.Errorf("the image needs unknown features (%#x)", h.Incompatible&^uint64(incompatKnown))
	case h.Incompatible&incompatCorrupt != 0:
		return errors.New("the image is marked corrupt")
	case h.CryptMethod != 0:
		return errors.New("the image is encrypted")
	case h.ClusterBits < 9 || h.ClusterBits > 21:
		return fmt.Errorf("cluster size 2^%d is outside 512 B to 2 MiB", h.ClusterBits)
	case h.VirtualSize == 0 || h.VirtualSize > MaxVirtualSize:
		return fmt.Errorf("virtual size of %d bytes is outside 1 to %d", h.VirtualSize, uint64(MaxVirtualSize))
	}
	cluster := uint64(1) << h.ClusterBits
	entry := uint64(8)
	if h.Incompatible&incompatExtendedL2 != 0 {
		entry = 16
	}
	perL1 := cluster * (cluster / entry) // bytes that one L1 entry covers
	if need := (h.VirtualSize + perL1 - 1) / perL1; uint64(h.L1Entries) < need || uint64(h.L1Entries) > 2*need+cluster/8 {
		return fmt.Errorf("L1 table of %d entries does not fit a disk of %d bytes", h.L1Entries, h.VirtualSize)
	}
	for _, part := range []struct {
		name        string
		offset, len uint64
	}{
		{"L1 table", h.L1Offset, uint64(h.L1Entries) * 8},
		{"refcount table", h.RefcountOffset, uint64(h.RefcountClusters) * cluster},
	} {
		if part.offset%cluster != 0 || part.offset > uint64(fileSize) || part.len > uint64(fileSize)-part.offset {
			return fmt.Errorf("%s lies outside the file", part.name)
		}
	}
	return nil
}
