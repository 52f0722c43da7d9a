package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// plain is a version 3 header of a 1 GiB disk in a file of 1 MiB.
func plain() []byte {
	b := make([]byte, 512)
	copy(b, Magic)
	be := binary.BigEndian
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)      // 64 KiB clusters
	be.PutUint64(b[24:], 1<<30)   // virtual size
	be.PutUint32(b[36:], 2)       // L1 entries
	be.PutUint64(b[40:], 3*65536) // L1 offset
	be.PutUint64(b[48:], 65536)   // refcount table
	be.PutUint32(b[56:], 1)
	be.PutUint32(b[100:], 104)
	return b
}

func TestCheckForeign(t *testing.T) {
	be := binary.BigEndian
	for _, tc := range []struct {
		name, want string
		edit       func(b []byte)
	}{
		{"plain", "", func([]byte) {}},
		{"version 4", "version 4", func(b []byte) { be.PutUint32(b[4:], 4) }},
		{"backing file", "backing file", func(b []byte) { be.PutUint64(b[8:], 200); be.PutUint32(b[16:], 11) }},
		{"backing offset only", "backing file", func(b []byte) { be.PutUint64(b[8:], 200) }},
		{"external data", "external file", func(b []byte) { be.PutUint64(b[72:], incompatExternalData) }},
		{"unknown feature", "unknown features", func(b []byte) { be.PutUint64(b[72:], 1<<17) }},
		{"corrupt", "corrupt", func(b []byte) { be.PutUint64(b[72:], incompatCorrupt) }},
		{"encrypted", "encrypted", func(b []byte) { be.PutUint32(b[32:], 2) }},
		{"cluster bits 8", "cluster size", func(b []byte) { be.PutUint32(b[20:], 8) }},
		{"cluster bits 63", "cluster size", func(b []byte) { be.PutUint32(b[20:], 63) }},
		{"no size", "virtual size", func(b []byte) { be.PutUint64(b[24:], 0) }},
		{"8 EiB", "virtual size", func(b []byte) { be.PutUint64(b[24:], 1<<63) }},
		{"huge L1", "L1 table", func(b []byte) { be.PutUint32(b[36:], 1<<30) }},
		{"short L1", "L1 table", func(b []byte) { be.PutUint32(b[36:], 1) }},
		{"L1 outside", "outside the file", func(b []byte) { be.PutUint64(b[40:], 1<<40) }},
		{"refcounts unaligned", "outside the file", func(b []byte) { be.PutUint64(b[48:], 65537) }},
		{"refcounts huge", "outside the file", func(b []byte) { be.PutUint32(b[56:], 1<<31) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := plain()
			tc.edit(b)
			h, err := Read(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			err = h.CheckForeign(1 << 20)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestReadRefusesOtherContent(t *testing.T) {
	if _, err := Read(strings.NewReader("#!/bin/sh\n")); !errors.Is(err, ErrNotQcow2) {
		t.Fatal(err)
	}
	if _, err := Read(bytes.NewReader(plain()[:60])); err == nil || errors.Is(err, ErrNotQcow2) {
		t.Fatal(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(plain())
	f.Fuzz(func(_ *testing.T, b []byte) {
		if h, err := Read(bytes.NewReader(b)); err == nil {
			_ = h.CheckForeign(int64(len(b)))
		}
	})
}
