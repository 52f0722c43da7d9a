package pki

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
)

// Serial is a node certificate's serial number in hex, as NodeRecord.certificate_serial holds it. It says which renewal it came from: 0x01, four
// bytes of count, eleven random bytes. So a record that knows the newest serial also knows what the one before looks like, and a node whose
// renewal was answered into a broken connection is not locked out.
type Serial string

const serialBytes = 16

// FirstSerial is the serial of a node's first certificate.
func FirstSerial() Serial { return newSerial(1) }

// After is a new serial for the renewal that follows s.
func (s Serial) After() Serial { return newSerial(s.count() + 1) }

// Instead is a new serial that takes the place of s: what s renewed stays good, s does not.
func (s Serial) Instead() Serial { return newSerial(s.count()) }

// Reenrolled is a new serial such that neither s nor the one before s is accepted any more.
func (s Serial) Reenrolled() Serial { return newSerial(s.count() + 2) }

// Accepts reports whether, with s on record, a certificate with serial other is good: it is s, or the one that s renewed.
func (s Serial) Accepts(other Serial) bool {
	return s != "" && (other == s || other.count() != 0 && other.count()+1 == s.count())
}

// SerialOf is the serial of a certificate.
func SerialOf(cert *x509.Certificate) Serial {
	b := cert.SerialNumber.Bytes()
	if len(b) > serialBytes {
		return ""
	}
	full := make([]byte, serialBytes)
	copy(full[serialBytes-len(b):], b)
	return Serial(hex.EncodeToString(full))
}

func newSerial(count uint32) Serial {
	b := make([]byte, serialBytes)
	b[0] = 1
	binary.BigEndian.PutUint32(b[1:5], count)
	_, _ = rand.Read(b[5:]) // never fails
	return Serial(hex.EncodeToString(b))
}

// count is which certificate of the node it is, from 1; 0 when s is no serial of ours.
func (s Serial) count() uint32 {
	b, err := hex.DecodeString(string(s))
	if err != nil || len(b) != serialBytes || b[0] != 1 {
		return 0
	}
	return binary.BigEndian.Uint32(b[1:5])
}

func (s Serial) number() (*big.Int, error) {
	b, err := hex.DecodeString(string(s))
	if err != nil || s.count() == 0 {
		return nil, fmt.Errorf("pki: serial %q: %w", string(s), errors.ErrUnsupported)
	}
	return new(big.Int).SetBytes(b), nil
}
