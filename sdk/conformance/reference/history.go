package reference

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// historyTable holds, under historyKey, the number of the last deed that the journal knows of.
const (
	historyTable = "history"
	historyKey   = "last"
)

// deed is one line of the history: what became of a domain, and when. The history lies beside the journal as JOURNAL.history, one JSON object a line; it is
// only ever appended to, and on disk before the journal changes. A line whose number is above the journal's last, or is given again further down, is of a
// transaction that did not come about.
type deed struct {
	Number int64     `json:"number"`
	Time   time.Time `json:"time"`
	Node   string    `json:"node"`
	Verb   string    `json:"verb"` // as the events of the contract: defined, started, shutdown, stopped, rebooted, paused, resumed, undefined
	Domain string    `json:"domain"`
	Epoch  int64     `json:"epoch"`
}

// did notes what a transaction does to a domain.
func (x *tx) did(typ driverv1.DomainEventType, id string, mark *driverv1.OwnershipMark) {
	x.deeds = append(x.deeds, deed{
		Verb: strings.ToLower(strings.TrimPrefix(typ.String(), "DOMAIN_EVENT_TYPE_")), Domain: id, Node: mark.GetNodeId(), Epoch: mark.GetEpoch(),
	})
}

// record appends a transaction's deeds to the history, and numbers them in the journal that is about to be replaced. The journal is locked.
func record(path string, x *tx) (err error) {
	if len(x.deeds) == 0 {
		return nil
	}
	var last int64
	if b := x.bytes(historyTable, historyKey); b != nil {
		if last, err = strconv.ParseInt(string(b), 10, 64); err != nil {
			return fmt.Errorf("reading the journal: last deed: %w", err)
		}
	}
	var lines []byte
	now := time.Now()
	for _, d := range x.deeds {
		last++
		d.Number, d.Time = last, now
		line, err := json.Marshal(d)
		if err != nil {
			return err
		}
		lines = append(append(lines, line...), '\n')
	}
	x.putBytes(historyTable, historyKey, strconv.AppendInt(nil, last, 10))
	return appendSynced(path+".history", lines)
}

// appendSynced appends to a file all of data or nothing.
func appendSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // synced
	before, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Truncate(before.Size()))
	}
	return f.Sync()
}
