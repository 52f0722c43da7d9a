package driver

func (d *Driver) watch() {}
