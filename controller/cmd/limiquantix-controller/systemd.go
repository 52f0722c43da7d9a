package main

import (
	sd "github.com/coreos/go-systemd/v22/daemon"
)

// notifyReady tells systemd, if it started us, that state is loaded and the ports are open.
func notifyReady() { _, _ = sd.SdNotify(false, sd.SdNotifyReady) }

// notifyStopping tells systemd that the end has begun.
func notifyStopping() { _, _ = sd.SdNotify(false, sd.SdNotifyStopping) }
