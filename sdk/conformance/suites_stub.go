package conformance

func storageChecks() []*Check { return nil }
func networkChecks() []*Check { return nil }
