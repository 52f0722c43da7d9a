package domain

import (
	"fmt"

	"github.com/limiquantix/limiquantix/proto/fault"
)

// Violations collects wrong fields, so that one answer names them all.
type Violations []fault.Violation

// Add notes a wrong field and what would be right.
func (v *Violations) Add(field, format string, args ...any) {
	*v = append(*v, fault.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

// Err is nil when nothing was noted, else INVALID_FIELD with everything that was.
func (v Violations) Err() error {
	if len(v) == 0 {
		return nil
	}
	return fault.Invalid(v...)
}
