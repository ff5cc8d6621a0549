<?php

namespace App\Models;

use Laravel\Sanctum\HasApiTokens;

class User extends \Illuminate\Foundation\Auth\User
{
    use HasApiTokens;

    protected $guarded = [];
}
