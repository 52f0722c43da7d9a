package seed

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// Where times are in an image: four in the primary volume descriptor (ECMA-119, 8.4.26 to 8.4.29), and in each directory record's Rock Ridge field TF.
const (
	descriptor = 16 * block
	volumeTime = 813
	timeLength = 17
	rootRecord = 156

	recordName = 33 // offset of a record's name
	fieldTimes = 5  // offset of the times in a TF field
	stampBytes = 7  // of one of them
)

var (
	noTime = append([]byte("0000000000000000"), 0)
	stamp  = [stampBytes]byte{70, 1, 1, 0, 0, 0, 0} // epoch
)

// timeless takes out the times at which the image was made. Its library writes them wherever it cannot be told otherwise: in the descriptor, and the working files'
// times of change.
func timeless(f *os.File) error {
	pvd := make([]byte, block)
	if _, err := f.ReadAt(pvd, descriptor); err != nil {
		return err
	}
	for i := range 4 {
		copy(pvd[volumeTime+i*timeLength:], noTime)
	}
	if _, err := f.WriteAt(pvd, descriptor); err != nil {
		return err
	}
	root := pvd[rootRecord:]
	at, size := int64(binary.LittleEndian.Uint32(root[2:]))*block, int(binary.LittleEndian.Uint32(root[10:]))
	dir := make([]byte, size)
	if _, err := f.ReadAt(dir, at); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for i := 0; i < len(dir); {
		n := int(dir[i])
		if n == 0 { // records do not cross blocks
			i = (i/block + 1) * block
			continue
		}
		record := dir[i:min(i+n, len(dir))]
		if len(record) > recordName {
			name := recordName + int(record[recordName-1])
			resetStamps(record[min(name+name%2, len(record)):])
		}
		i += n
	}
	if _, err := f.WriteAt(dir, at); err != nil {
		return err
	}
	return f.Sync()
}

// resetStamps walks the fields of a record's system use area: two letters, length, version, content.
func resetStamps(area []byte) {
	for len(area) >= 4 && int(area[2]) >= 4 && int(area[2]) <= len(area) {
		field := area[:area[2]]
		if string(field[:2]) == "TF" {
			for j := fieldTimes; j+stampBytes <= len(field); j += stampBytes {
				copy(field[j:], stamp[:])
			}
		}
		area = area[len(field):]
	}
}
