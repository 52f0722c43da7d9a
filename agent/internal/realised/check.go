package realised

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"go.etcd.io/bbolt"
)

// bbolt has checksums of its two meta pages only. A byte that flips elsewhere may change a record, or lose some, and be as valid as before; and where one
// meta page is bad, bbolt takes the other, which shows the transaction before the last. Neither may pass for what this node has: the file's whole content
// has a checksum that every transaction keeps in step, and both meta pages must be good.

var keySum = []byte("sum")

// contentSum is the XOR over all entries of SHA-256(bucket, key, value): equal contents have equal sums, however they came about.
type contentSum [sha256.Size]byte

// fold takes an entry in, or out again; an entry that is not there changes nothing.
func (s *contentSum) fold(bucket, key, value []byte) {
	if value == nil {
		return
	}
	h := sha256.New()
	for _, part := range [][]byte{bucket, key, value} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part))) // a hash takes all
		h.Write(part)
	}
	for i, b := range h.Sum(nil) {
		s[i] ^= b
	}
}

// storedSum is what the file says its sum is.
func storedSum(tx *bbolt.Tx) (s contentSum) {
	copy(s[:], tx.Bucket(bucketCheck).Get(keySum))
	return s
}

func (s *contentSum) store(tx *bbolt.Tx) error { return tx.Bucket(bucketCheck).Put(keySum, s[:]) }

// verify compares the content with its sum; a file of a version that kept none gets one.
func verify(tx *bbolt.Tx) error {
	var sum contentSum
	for _, name := range [][]byte{bucketRecords, bucketDesired, bucketFormer} {
		err := tx.Bucket(name).ForEach(func(k, v []byte) error {
			sum.fold(name, k, v)
			return nil
		})
		if err != nil {
			return err
		}
	}
	switch was := tx.Bucket(bucketCheck).Get(keySum); {
	case was == nil:
		return sum.store(tx)
	case !bytes.Equal(was, sum[:]):
		return errors.New("its content does not have the checksum that it was written with")
	}
	return nil
}

const (
	metaMagic  = 0xED0CDAED
	pageHeader = 16
	metaSize   = 64 // its checksum at the end included
)

// checkMetas refuses a file one of whose two meta pages is bad. A file that does not exist, or has no content yet, is good.
func checkMetas(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	for page := range int64(2) {
		b := make([]byte, pageHeader+metaSize)
		if _, err := f.ReadAt(b, page*int64(os.Getpagesize())); errors.Is(err, io.EOF) {
			return fmt.Errorf("it ends before page %d", page)
		} else if err != nil {
			return err
		}
		meta := b[pageHeader:]
		h := fnv.New64a()
		h.Write(meta[:metaSize-8]) //nolint:errcheck // a hash takes all
		if binary.NativeEndian.Uint32(meta) != metaMagic || binary.NativeEndian.Uint64(meta[metaSize-8:]) != h.Sum64() {
			return fmt.Errorf("its meta page %d is damaged", page)
		}
	}
	return nil
}
